// The way in, and the way out.

import { call } from "./api.js";

export const LOGIN = new URL("../login", import.meta.url);

/**
 * Signs out and shows the login page, also to whoever is out already.
 * @param {import("./session.js").Session} session told of any other error
 */
export async function logOut(session) {
  try {
    await call("POST", "logout", "{}");
  } catch (error) {
    if (error.status !== 401) {
      session.inform(error);
      return;
    }
  }
  location.assign(LOGIN);
}
