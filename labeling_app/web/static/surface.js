// The ranking surface: the prompt, the cards, what else there is to say, the bar; and what to show when there is no task.

import { retryNow } from "./api.js";
import { Bar } from "./bar.js";
import { Blank } from "./blank.js";
import { Card, isLong, letScroll } from "./cards.js";
import { button, count, el, fill, keycap, setText } from "./dom.js";
import { bestOf, without } from "./draft.js";
import { LOGIN, logOut } from "./login.js";
import { markdown } from "./render.js";

const WORDS = ["", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
const TITLES = {
  rank: (num) => `Rank these ${WORDS[num] ?? num}, best first`,
  pair: () => "Which of the two is better?",
  ab: () => "Which of the two is better?",
  rate: (num) => `Grade ${num === 1 ? "this" : `these ${WORDS[num] ?? num}`}, from 1 (worst) to 7 (best)`,
};

export class Surface {
  constructor(session, actions) {
    Object.assign(this, { session, actions, cards: [], marked: null });
    this.live = el("div", { class: "live", "aria-live": "polite", role: "log" });
    this.notice = el("div", { class: "notice", hidden: true });
    this.past = el("div", { class: "past", hidden: true });
    this.title = el("h2", { tabindex: "-1" });
    this.lease = el("span", { class: "quiet", role: "status" });
    this.backButton = button("Previous", () => session.past.goBack(), { class: "quiet-button" });
    this.backButton.append(keycap("U"));
    this.prompt = el("div", { class: "prompt body" });
    this.list = el("div", { class: "cards", "data-out": true });
    this.rationale = el("textarea", { rows: 2, maxlength: 10_000, dir: "auto", placeholder: "Why? (optional)", "aria-label": "Why?" });
    this.rationale.addEventListener("input", () => session.change((draft) => (draft.rationale = this.rationale.value)));
    this.editButton = button("Edit the best", actions.edit, { class: "quiet-button" });
    this.editButton.append(keycap("E"));
    this.more = el("div", { class: "more" }, this.rationale, this.editButton);
    this.bar = new Bar(session, actions);
    this.blank = new Blank(session, actions);
    const head = el("header", { class: "task-head" }, this.title, this.lease, this.backButton);
    this.work = el("section", { class: "work", "aria-label": "Task" }, head, this.past, this.prompt, this.list, this.more);
    this.node = el("div", { class: "surface" }, this.notice, this.work, this.blank.node, this.bar.node, this.live);
    this.sizes = new ResizeObserver((entries) => entries.forEach(({ target }) => letScroll(target)));
    this.watch();
  }

  watch() {
    const { session } = this;
    session.addEventListener("task", () => this.setTask());
    session.addEventListener("draft", () => {
      this.bar.missing.hidden = true;
      if (document.activeElement.matches(".card")) document.activeElement.blur(); // it was pointed out; now it is known
      this.update();
    });
    session.addEventListener("state", () => this.setState());
    session.addEventListener("say", (event) => this.say(event.detail));
    session.addEventListener("incomplete", () => this.complain());
  }

  /** Says what is missing, for the eye and the ear, and shows the first card that it is missing of. */
  complain() {
    const { session } = this;
    const { draft, task } = session;
    const left = without(draft, task);
    const numbers = left.map((id) => this.numbers.get(id)).join(", ");
    const what = task.mode === "rate" ? "without a grade" : "unplaced";
    const text = ["pair", "ab"].includes(task.mode)
      ? "Say which one is better, or that they are equally good."
      : `${left.length} of ${task.cards.length} ${left.length === 1 ? "is" : "are"} still ${what}: ${numbers}`;
    this.bar.complain(text);
    this.say(text);
    this.mark(left[0]);
    this.update();
    this.show(left[0]);
    this.cards.find((card) => card.id === left[0]).shake();
  }

  /** A new node each time: the same sentence twice is read twice. */
  say(text) {
    fill(this.live, el("p", {}, text));
  }

  setTask() {
    const { task } = this.session;
    this.bar.setTask();
    this.marked = task?.mode === "rate" ? this.session.current : null;
    if (task === null) return;
    setText(this.title, TITLES[task.mode](task.cards.length));
    fill(this.prompt, markdown(task.prompt));
    this.cards = task.cards.map((card, index) => new Card(this.session, card, index + 1, this.actions));
    this.numbers = new Map(this.cards.map((card) => [card.id, card.number]));
    fill(this.list, ...this.cards.map((card) => card.node));
    this.list.dataset.count = this.cards.length;
    this.editButton.hidden = this.cards.length === 0;
    this.update();
    window.scrollTo({ top: 0 });
    for (const scrolled of [this.prompt, this.list]) scrolled.scrollTop = 0;
    this.sizes.disconnect();
    for (const body of this.node.querySelectorAll(".body")) this.sizes.observe(body);
    if (!document.querySelector("dialog[open]")) this.title.focus({ preventScroll: true });
  }

  update() {
    const { session } = this;
    if (session.task === null) return;
    for (const card of this.cards) card.update();
    this.drawMark();
    this.bar.update();
    const { rationale } = session.draft;
    if (this.rationale.value !== rationale) this.rationale.value = rationale; // another tab's, or an earlier answer's
    this.rationale.readOnly = !session.open;
    this.editButton.disabled = session.frozen || bestOf(session.draft, session.task, session.current) === null;
  }

  setState() {
    const { session } = this;
    const { phase, task, notice } = session;
    const busy = phase === "sending" || phase === "waiting";
    this.work.hidden = task === null;
    this.node.dataset.phase = phase;
    this.work.setAttribute("aria-busy", String(busy));
    this.blank.draw();
    this.bar.node.hidden = task === null || session.readOnly;
    this.drawPast();
    this.drawNotice(notice);
    this.update();
  }

  drawNotice(notice) {
    this.notice.hidden = notice === null;
    if (notice === null) return;
    this.notice.setAttribute("role", notice.problem ? "alert" : "status");
    fill(this.notice, el("span", {}, notice.text), ...this.wayOut());
  }

  wayOut() {
    const { session } = this;
    if (session.notice.undo) return [button("Undo", session.notice.undo)];
    switch (session.phase) {
      case "waiting":
        return [button("Try now", retryNow)];
      case "signed-out":
        return [el("a", { class: "button", href: LOGIN }, "Sign in")];
      case "stopped":
        return session.me === null ? [button("Log out", () => logOut(session))] : []; // the head of the page knows nobody
      case "lost":
        return [...this.ownWords(), button("Next task", () => session.giveUp())];
      default:
        return [];
    }
  }

  /** What was written by hand is not thrown away with a lost task. */
  ownWords() {
    const { draft } = this.session;
    const words = [draft.rationale, draft.edit?.text].filter(Boolean).join("\n\n");
    return words ? [button("Copy what I wrote", () => navigator.clipboard?.writeText(words))] : [];
  }

  drawPast() {
    const { session } = this;
    const { task } = session;
    this.past.hidden = !session.past.looking || task === null;
    this.backButton.hidden = task === null;
    if (this.past.hidden) return;
    const home = session.past.held ? "Back to the task in hand" : "Next task";
    const what = session.readOnly
      ? "You skipped this one."
      : task.lease
        ? "You skipped this one. You can answer it now."
        : `An earlier answer of yours${task.revision > 1 ? `, changed ${count(task.revision - 1, "time")}` : ""}. Submitting saves the change.`;
    const forward = button(home, () => session.past.goForward(true));
    forward.append(keycap("N"));
    const again = session.readOnly && button("Answer it after all", () => session.past.takeAgain());
    if (again) again.append(keycap("A"));
    fill(this.past, el("span", {}, what), again, forward);
  }

  setLease(text) {
    setText(this.lease, text);
  }

  cardOf(id) {
    return this.cards.find((card) => card.id === id);
  }

  show(id) {
    const card = this.cardOf(id);
    card?.node.scrollIntoView({ block: "nearest" });
    card?.node.focus({ preventScroll: true });
  }

  /** The card that the keys speak of, for all to see; null: none, where cards are placed. */
  mark(id) {
    this.marked = id;
    if (id !== null) this.session.current = id;
    this.drawMark();
  }

  drawMark() {
    const { session } = this;
    if (session.task.mode === "rate") this.marked = session.current;
    for (const card of this.cards) card.node.classList.toggle("current", card.id === this.marked);
  }

  /** One page of the marked card (or the prompt's, or a card's that has the focus); false where there is no more of it. */
  scroll(by) {
    const focused = document.activeElement.closest(".body");
    const body = focused ?? this.cardOf(this.marked)?.body;
    if (!body || !isLong(body)) return false;
    const before = body.scrollTop;
    body.scrollTop += by * 0.9 * body.clientHeight;
    return body.scrollTop !== before;
  }
}
