// Talking to the server: one call, and one call that is repeated until it is answered.

const BASE = new URL("../api/", import.meta.url);
const TIMEOUT_MS = 20_000;
const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 15_000;

/** An answer of the server that is not the one asked for; `status` 0 when there was no answer at all. */
export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may succeed later without anybody doing anything. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

/** @param {string} method @param {string} path below /api/ @param {string} [body] JSON text */
export async function call(method, path, body) {
  let response, reply;
  try {
    response = await fetch(new URL(path, BASE), {
      method,
      body,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    reply = await response.json().catch(() => null);
  } catch {
    throw new ApiError(0, "offline", "The server cannot be reached.");
  }
  if (response.ok && reply !== null) return reply;
  // an answer that is cut off, or not from our server, says nothing about what was stored
  if (reply === null || typeof reply.error !== "string") {
    const status = response.ok ? 0 : response.status;
    throw new ApiError(status, "unreadable", `The server answered ${response.status}.`);
  }
  throw new ApiError(response.status, reply.error, reply.message ?? reply.error);
}

/**
 * Repeats a call until the server answers it, with growing pauses; gives up only on answers that will not change.
 * @param {(error: ApiError, seconds: number) => void} onwait told before each pause
 */
export async function deliver(method, path, body, onwait = () => {}) {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    try {
      return await call(method, path, body);
    } catch (error) {
      if (!(error instanceof ApiError) || !error.passing) throw error;
      onwait(error, wait / 1000);
      await pause(wait * (0.75 + Math.random() / 2));
    }
  }
}

let wake = () => {};

/** Ends the pause before the next attempt. */
export function retryNow() {
  wake();
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

window.addEventListener("online", retryNow);

/** A random UUID; `crypto.randomUUID` is there only on https and on loopback. */
export function uuid() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
