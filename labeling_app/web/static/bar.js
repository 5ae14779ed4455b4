// The bar at the foot of the page: the order so far, how far the best leads, and what sends it off.

import { button, el, fill, keycap, setText } from "./dom.js";
import { isOrderOptional, numLeft, without } from "./draft.js";
import { move, tierOf } from "./ranking.js";

/** A finger, or a screen on which no key is shown. */
const TOUCH = window.matchMedia("(pointer: coarse), (max-width: 760px)");
const STRENGTHS = ["slightly", "clearly", "much", "far"];

export class Bar {
  constructor(session, actions) {
    Object.assign(this, { session, actions });
    this.order = el("div", { class: "order", role: "group", "aria-label": "Order, best first" });
    this.strengths = STRENGTHS.map((name, index) => {
      const choose = () => actions.strength(index + 1);
      return button(name, choose, { title: `The best is ${name} better than the next` });
    });
    this.strength = el(
      "div",
      { class: "strength", role: "group", "aria-label": "How much better is the best than the next?" },
      el("span", { class: "quiet", "aria-hidden": "true" }, "Best leads", el("span", { class: "keys" }, keycap("←"), keycap("→"))),
      el("span", { class: "segments" }, ...this.strengths),
    );
    this.allBad = button("All bad", actions.allBad, { class: "toggle", title: "None of them is acceptable" });
    this.allBad.append(keycap("B"));
    this.skip = button("Skip", actions.skip, { class: "quiet-button" });
    this.skip.append(keycap("S"));
    this.submit = button("", actions.submit, { class: "submit" });
    this.submitLabel = el("span");
    this.submit.append(this.submitLabel, keycap("↵"));
    this.state = el("span", { class: "saved" });
    this.missing = el("p", { class: "missing", hidden: true });
    this.node = el(
      "footer",
      { class: "bar" },
      this.order,
      el("div", { class: "choices" }, this.strength, this.allBad),
      this.state,
      el("div", { class: "send" }, this.skip, this.submit),
      this.missing,
    );
    TOUCH.addEventListener("change", () => this.update());
  }

  setTask() {
    const { task } = this.session;
    this.node.hidden = task === null;
    this.missing.hidden = true;
    if (task === null) return;
    this.strength.hidden = task.mode === "rate";
    this.numbers = new Map(task.cards.map((card, index) => [card.id, index + 1]));
  }

  update() {
    const { session } = this;
    const { draft, task, phase, frozen } = session;
    if (task === null) return;
    if (task.mode === "rate") fill(this.order, this.hint());
    else this.drawOrder();
    const comparable = draft.tiers.length > 1;
    this.strengths.forEach((node, index) => {
      node.setAttribute("aria-pressed", String(draft.strength === index + 1));
      node.disabled = frozen || !comparable;
    });
    this.strength.classList.toggle("off", !comparable);
    this.allBad.setAttribute("aria-pressed", String(draft.allBad));
    this.allBad.disabled = frozen;
    this.skip.hidden = !task.lease;
    this.skip.disabled = frozen;
    const left = numLeft(draft, task);
    this.submit.setAttribute("aria-disabled", String(frozen || left > 0));
    setText(this.submitLabel, phase === "waiting" ? "Saving…" : task.lease ? "Submit" : "Save change");
    const [state, isMinor] = this.stateText(left);
    setText(this.state, state);
    this.state.classList.toggle("minor", isMinor);
    this.state.title = session.savedAt ? `Saved at ${session.savedAt.toLocaleTimeString()}` : "";
  }

  /** Says, until something changes, what the answer lacks. */
  complain(text) {
    setText(this.missing, text);
    this.missing.hidden = false;
  }

  /** What there is to say, and whether it can be left out where there is little room. */
  stateText(left) {
    const { phase, saved, draft, drafts, task, past } = this.session;
    if (phase === "waiting") return ["Not saved yet", false];
    if (drafts.full) return ["This browser keeps no drafts", false];
    if (draft.savedAt === 0 && saved && !past.looking) return [saved, false];
    const num = task.cards.length;
    if (left === 0 || num - left === 0) return ["", true];
    return [`${num - left} of ${num} ${task.mode === "rate" ? "graded" : "placed"}`, true];
  }

  hint() {
    const { draft, task } = this.session;
    const last = task.cards.length;
    if (isOrderOptional(draft, task)) {
      return el("span", { class: "hint gap last", "data-gap": 0 }, "All bad: an order is optional.", !TOUCH.matches && [" ", keycap("↵"), " submits"]);
    }
    const words = {
      rank: [keycap("1"), "–", keycap(last), " best first, ", keycap("="), " ties the next, or drag"],
      pair: [keycap("1"), " or ", keycap("2"), " is better, ", keycap("="), " equally good"],
      ab: [keycap("1"), " or ", keycap("2"), " is better, ", keycap("="), " equally good"],
      rate: [keycap("1"), "–", keycap("7"), " grades the marked card, 7 is best; ", keycap("↑"), keycap("↓"), " marks another"],
    };
    const touch = {
      rank: "Tap Place on the best first; drag to reorder.",
      pair: "Tap Better, or Equal.",
      ab: "Tap Better, or Equal.",
      rate: "Tap a grade on each: 7 is best.",
    };
    const props = task.mode === "rate" ? { class: "hint" } : { class: "hint gap last", "data-gap": 0 };
    return el("span", props, ...(TOUCH.matches ? [touch[task.mode]] : words[task.mode]));
  }

  /** best [gap] tier [gap] tier [gap] worst; gaps and tiers take what is dropped. */
  drawOrder() {
    const { draft, task } = this.session;
    if (draft.tiers.length === 0) {
      fill(this.order, this.hint());
      return;
    }
    const focused = this.order.contains(document.activeElement) ? document.activeElement.dataset.drag : null;
    const parts = draft.tiers.flatMap((tier, index) => [
      el("span", { class: "gap", "data-gap": index }, index > 0 ? "›" : ""),
      el("span", { class: "tier", role: "group" }, ...tier.flatMap((id, at) => [at > 0 && "=", this.chip(id)])),
    ]);
    const rest = isOrderOptional(draft, task) && without(draft, task).length > 0 && "› the others";
    const last = el("span", { class: "gap last", "data-gap": draft.tiers.length }, draft.tieNext ? "= …" : rest);
    fill(this.order, ...parts, last);
    if (focused) this.order.querySelector(`[data-drag="${focused}"]`)?.focus();
  }

  chip(id) {
    const number = this.numbers.get(id);
    const { tiers } = this.session.draft;
    const label = `Card ${number}, place ${tierOf(tiers, id) + 1} of ${tiers.length}`;
    const chip = button(String(number), () => this.actions.show(id), { class: "order-chip", "aria-label": label, title: "Drag, or arrow keys" });
    chip.dataset.drag = id;
    chip.dataset.onto = id;
    chip.disabled = this.session.frozen;
    chip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      this.actions.move(id, (before) => move(before, id, step));
    });
    return chip;
  }
}
