// The cards: one response each, blind, in the order in which the server shows them to this person.

import { button, el, fill, keycap, setText } from "./dom.js";
import { isEditKept, numLeft } from "./draft.js";
import { markdown, numSuspicious, raw } from "./render.js";
import { move, place, placeName, remove, tieWithNeighbour, tierOf } from "./ranking.js";

const GRADES = [1, 2, 3, 4, 5, 6, 7];
const HUGE = 20_000;
const STILL = window.matchMedia("(prefers-reduced-motion: reduce)");

export const isLong = (body) => body.scrollHeight > body.clientHeight + 1;

/** A text that is longer than its box takes the focus: the keyboard scrolls it, too. */
export function letScroll(body) {
  if (isLong(body)) body.tabIndex = 0;
  else body.removeAttribute("tabindex");
}

export class Card {
  /** @param {number} number the key that stands for it */
  constructor(session, card, number, actions) {
    Object.assign(this, { session, id: card.id, number, rendered: card.rendered, actions, isRaw: false, isOriginal: false });
    this.badge = el("span", { class: "badge" });
    this.marks = el("span", { class: "marks" });
    this.body = el("div", { class: card.rendered.raw.length > HUGE ? "body huge" : "body" }, markdown(card.rendered));
    this.shown = [false, null];
    this.tools = el("div", { class: "tools" });
    const grip = el("div", { class: "grip", "data-drag": card.id }, keycap(number), this.badge, this.marks);
    const head = el("header", { class: "head" }, grip, this.tools);
    this.node = el("article", { class: "card", "data-id": card.id, "aria-label": `Card ${number}`, tabindex: "-1" }, head, this.body);
    this.rawButton = this.tool("Raw", "Show every character of the text", () => this.toggleRaw());
    if (session.task.mode === "rate") this.addGrades();
    else if (session.task.mode === "rank") this.addMoves();
    else this.addPreference();
    this.flagButton = this.tool("Flag", "Say what is wrong with this card", () => actions.flag(card.id));
    this.tools.append(this.flagButton, this.rawButton);
    this.node.addEventListener("pointerdown", () => actions.focus(card.id));
  }

  tool(label, title, onclick) {
    return button(label, onclick, { title, "aria-label": `${title}: card ${this.number}` });
  }

  addMoves() {
    const change = (update) => () => {
      const { session, id } = this;
      session.change((draft) => { draft.tiers = update(draft.tiers, id); }, () => this.spoken());
    };
    this.placeButton = this.tool("Place", "Place next", change((tiers, id) => place(tiers, id, this.takeTie())));
    this.moves = [
      this.tool("↑", "Move up", change((tiers, id) => move(tiers, id, -1))),
      this.tool("↓", "Move down", change((tiers, id) => move(tiers, id, +1))),
      this.tool("=", "Tie with its neighbour", change(tieWithNeighbour)),
      this.tool("×", "Take out of the order", change(remove)),
    ];
    this.tools.append(this.placeButton, ...this.moves);
  }

  /** Between two there is only this one, or none. */
  addPreference() {
    this.moves = [this.tool("Equal", "Equally good", this.actions.tie)];
    this.placeButton = this.tool("Better", "This one is better", () => this.actions.choose(this.number));
    this.tools.append(...this.moves, this.placeButton);
  }

  takeTie() {
    const tied = this.session.draft.tieNext;
    this.session.draft.tieNext = false;
    return tied;
  }

  addGrades() {
    this.grades = GRADES.map((grade) =>
      button(String(grade), () => this.actions.grade(this.id, grade), { class: "grade", "aria-label": `Grade ${grade}` }),
    );
    const group = el("div", { class: "grades", role: "group", "aria-label": `Grade of card ${this.number}` }, ...this.grades);
    this.node.append(el("footer", {}, el("span", { class: "quiet" }, "worst"), group, el("span", { class: "quiet" }, "best")));
  }

  toggleRaw(on = !this.isRaw) {
    this.isRaw = on;
    this.rawButton.setAttribute("aria-pressed", String(on));
    this.drawText();
  }

  /** What this person has made of it, as long as they do not ask for the original; null: the original. */
  get ownWords() {
    const { edit } = this.session.draft;
    return edit?.response_id === this.id && !this.isOriginal ? edit.text : null;
  }

  /** One's own words stand as they were typed: Markdown is the server's to parse. */
  drawText() {
    const { isRaw, ownWords } = this;
    if (this.shown[0] === isRaw && this.shown[1] === ownWords) return;
    this.shown = [isRaw, ownWords];
    const original = ownWords === null;
    const text = () => (original ? markdown(this.rendered) : el("div", { class: "text own", dir: "auto" }, ownWords));
    fill(this.body, isRaw ? raw(original ? this.rendered : { raw: ownWords }) : text());
    this.body.classList.toggle("edited", !original);
    this.body.scrollTop = 0;
    letScroll(this.body);
  }

  /** "Card 3: 2nd" */
  spoken() {
    return `Card ${this.number}: ${this.placeText() ?? "not placed"}.`;
  }

  placeText() {
    const { draft, task } = this.session;
    if (task.mode !== "rate") return placeName(draft.tiers, this.id);
    const grade = draft.ratings.find(([id]) => id === this.id)?.[1];
    return grade === undefined ? null : `${grade} of 7`;
  }

  update() {
    const { draft, task, frozen } = this.session;
    const text = this.placeText();
    setText(this.badge, text ?? (task.mode === "rate" ? "not graded" : "not placed"));
    this.node.classList.toggle("placed", text !== null);
    this.node.classList.toggle("best", task.mode !== "rate" && tierOf(draft.tiers, this.id) === 0);
    if (this.placeButton) {
      const ranked = task.mode === "rank";
      this.placeButton.hidden = ranked ? text !== null : text === "best";
      for (const tool of this.moves) tool.hidden = ranked && text === null;
    }
    this.grades?.forEach((node, index) => {
      const chosen = text === `${index + 1} of 7`;
      node.setAttribute("aria-pressed", String(chosen));
    });
    for (const node of this.node.querySelectorAll(".tools button, .grades button")) {
      node.disabled = frozen && node !== this.rawButton;
    }
    fill(this.marks, ...this.chips());
    if (draft.edit?.response_id !== this.id) this.isOriginal = false;
    this.drawText();
  }

  chips() {
    const { draft, me } = this.session;
    const label = (name) => me.flags.find((flag) => flag.name === name)?.label ?? name;
    const flags = (draft.flags[this.id] ?? []).map((name) => el("span", { class: "chip flag" }, label(name)));
    const edited = draft.edit?.response_id === this.id && this.editChip();
    const unseen = numSuspicious(this.rendered) > 0 && el("span", { class: "chip warn", title: "The raw view shows them" }, "hidden characters");
    return [...flags, edited, unseen];
  }

  /** While an order is in the making it is too early to say whether it is of the best. */
  editChip() {
    const { session, number } = this;
    const isStray = !isEditKept(session.draft, session.task) && numLeft(session.draft, session.task) === 0;
    const drop = button("×", () => session.dropEdit(), { title: "Drop the edit", "aria-label": `Drop the edit of card ${number}` });
    drop.disabled = session.frozen;
    const compare = button(this.isOriginal ? "show edit" : "show original", () => this.toggleOriginal(), { class: "compare" });
    return el("span", { class: isStray ? "chip edit warn" : "chip edit" }, isStray ? "edited, not the best" : "edited", compare, drop);
  }

  toggleOriginal() {
    this.isOriginal = !this.isOriginal;
    fill(this.marks, ...this.chips());
    this.drawText();
  }

  /** Here something is missing. */
  shake() {
    if (STILL.matches) return;
    const moved = [0, -6, 6, -4, 4, 0].map((x) => ({ transform: `translateX(${x}px)` }));
    this.node.animate(moved, 300);
  }
}
