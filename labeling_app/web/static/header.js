// The head of the page (a Gradio row): title, progress, time, guidelines.

import { el, fill, setText } from "./dom.js";
import { hours } from "./clock.js";
import { keep, storage } from "./draft.js";
import { logOut } from "./login.js";
import { markdown } from "./render.js";

const SEEN = "rlhf.guidelines-seen.";
const OPEN = "rlhf.guidelines-open";
const ROOM = window.matchMedia("(min-width: 1200px)");

export class Header {
  constructor(session) {
    this.session = session;
    this.title = el("h1");
    this.bar = el("progress", { max: 1, value: 0, "aria-label": "Answered" });
    this.done = el("span", { class: "quiet" });
    this.time = el("span", { class: "quiet", role: "timer" });
    this.links = el("span", { class: "links" });
  }

  /** Into the places that Gradio has laid out. */
  mount() {
    place("page-title", this.title);
    place("page-progress", this.bar, this.done);
    place("page-clock", this.time);
    place("page-menu", this.links);
    this.panel = place("page-guidelines");
    const opener = document.getElementById("open-guidelines");
    opener.setAttribute("aria-controls", this.panel.id);
    opener.setAttribute("aria-expanded", "false");
    this.setMe();
  }

  setMe() {
    const { me } = this.session;
    if (me === null || !this.panel) return;
    setText(this.title, me.title);
    const link = (name, path, onclick) => el("a", { href: new URL(path, import.meta.url), onclick }, name);
    const out = link("Log out", "../logout", (event) => {
      event.preventDefault();
      logOut(this.session);
    });
    fill(this.links, me.user.role === "admin" && link("Dashboard", "../admin/"), out);
    this.links.title = `You are ${me.user.name}`;
    const { version, tree } = me.guidelines ?? { version: null };
    const opener = document.getElementById("open-guidelines");
    opener.hidden = version === null;
    if (version === null || version === this.version) return;
    this.version = version;
    this.seen = `${SEEN}${me.user.name}/${me.queue}`; // another queue has other guidelines, another person has read others
    opener.classList.toggle("news", storage.getItem(this.seen) !== String(version));
    const heading = el("header", {}, el("h2", {}, "Guidelines"), el("span", { class: "quiet" }, `version ${version}`));
    fill(this.panel, heading, markdown({ tree }));
    const chosen = storage.getItem(OPEN);
    this.showGuidelines(chosen === null ? ROOM.matches : chosen === "yes");
  }

  toggleGuidelines() {
    if (!this.session.me?.guidelines) return;
    const open = !document.body.classList.contains("guidelines-open");
    keep(OPEN, open ? "yes" : "no");
    this.showGuidelines(open);
  }

  showGuidelines(open) {
    document.body.classList.toggle("guidelines-open", open);
    const opener = document.getElementById("open-guidelines");
    opener.setAttribute("aria-expanded", String(open));
    if (!open) return;
    keep(this.seen, String(this.version));
    opener.classList.remove("news");
  }

  update(sittingMs) {
    const { progress } = this.session;
    if (progress === null) return;
    const { num_answered, num_skipped, num_open_for_me, num_today } = progress;
    const all = num_answered + num_skipped + num_open_for_me;
    const skipped = num_skipped > 0 ? `, ${num_skipped} skipped` : "";
    this.bar.max = Math.max(all, 1);
    this.bar.value = num_answered + num_skipped;
    setText(this.done, `${num_answered} of ${all} answered${skipped}, ${num_today} today`);
    setText(this.time, `This sitting ${hours(sittingMs / 1000)} · today ${hours(progress.seconds_today)}`);
  }
}

function place(id, ...children) {
  const node = document.getElementById(id);
  node.append(...children);
  return node;
}
