// What opens over the page: skip, flags, edit the best, earlier tasks, the keys.

import { button, count, el, fill, keycap } from "./dom.js";
import { HELP, isTyping } from "./keys.js";

/**
 * @param {string} title
 * @param {Node[]} content
 * @param {{onkey?: (event: KeyboardEvent) => void, wide?: boolean}} [options]
 */
function open(title, content, { onkey, wide } = {}) {
  const dialog = el("dialog", { class: wide ? "wide" : null, "aria-label": title });
  const close = button("×", () => shut(dialog), { class: "close", "aria-label": "Close" });
  dialog.append(el("header", {}, el("h2", { tabindex: "-1", autofocus: true }, title), close), ...content);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && shut(dialog));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      event.preventDefault(); // the browser's own way is not at once, and the next key may be there already
      shut(dialog);
    } else onkey?.(event);
  });
  document.querySelector(".surface").append(dialog);
  if (!document.activeElement.matches(":focus-visible")) byPointer.add(dialog);
  dialog.showModal();
  return dialog;
}

/** Opened by a click or a letter: afterwards the keys speak of the task again, not of the button that was clicked. */
const byPointer = new WeakSet();

/** At once: the focus must not linger in what is no longer seen. */
function shut(dialog) {
  dialog.close();
  dialog.remove();
  if (byPointer.has(dialog)) document.activeElement.blur();
}

const digit = (event) => (/^[1-9]$/.test(event.key) && !isTyping(event.target) ? Number(event.key) : null);

export function skipDialog(session) {
  const reasons = session.me.skip_reasons;
  let chosen = null;
  const choose = (index) => {
    if (index >= reasons.length) return;
    chosen = reasons[index];
    options.forEach((option, at) => option.setAttribute("aria-pressed", String(at === index)));
    send.disabled = false;
  };
  const options = reasons.map((reason, index) => {
    const option = button("", () => choose(index), { "aria-pressed": "false", class: "option" });
    return fill(option, keycap(index + 1), reason);
  });
  const note = el("textarea", { rows: 2, maxlength: 2000, "aria-label": "Anything to add", placeholder: "Anything to add (optional)" });
  const finish = () => {
    if (chosen === null) return;
    shut(dialog);
    session.skip(chosen, note.value.trim());
  };
  const send = button("Skip this task", finish, { class: "submit", disabled: true });
  send.append(keycap("↵"));
  const dialog = open("Why skip this one?", [el("div", { class: "options", role: "group" }, ...options), note, el("footer", {}, send)], {
    onkey: (event) => {
      if (digit(event)) choose(digit(event) - 1);
      if (event.key !== "Enter" || (isTyping(event.target) && !event.ctrlKey && !event.metaKey)) return;
      if (event.target.matches(".close, .submit")) return;
      event.preventDefault();
      if (!event.repeat) finish();
    },
  });
}

/** The card first, where `id` is null; then what is wrong with it. The digits mean what the lines on the screen say. */
export function flagDialog(session, id, numbers) {
  const given = [session.task.answer?.flags ?? {}, structuredClone(session.draft.flags)];
  const hasOrHad = (response, name) => given.some((flags) => flags[response]?.includes(name));
  const known = new Set(session.me.flags.map((flag) => flag.name));
  const retired = new Set(given.flatMap((flags) => Object.values(flags).flat()).filter((name) => !known.has(name)));
  const flags = [...session.me.flags, ...[...retired].map((name) => ({ name, label: `${name} (no longer in use)` }))];
  /** One that is no longer in use stands only where it was given: to be taken off, or put back. */
  const isOffered = ({ name }) => known.has(name) || hasOrHad(card, name);
  const { cards } = session.task;
  let card = id ?? (cards.length === 1 ? cards[0].id : null);
  const toggle = (index) => {
    if (index >= flags.length || !isOffered(flags[index])) return;
    const { name } = flags[index];
    session.change((draft) => {
      const had = draft.flags[card] ?? [];
      draft.flags[card] = had.includes(name) ? had.filter((other) => other !== name) : [...had, name];
    });
    draw();
  };
  const pick = (next) => {
    card = next;
    draw();
    heading.focus();
  };
  const choices = cards.map((each) => {
    const choice = button("", () => pick(each.id), { class: "option" });
    return fill(choice, keycap(numbers.get(each.id)), el("span", { class: "preview", dir: "auto" }, firstWords(each)));
  });
  const options = flags.map((flag, index) => fill(button("", () => toggle(index), { class: "option" }), keycap(index + 1), flag.label));
  const words = el("p", { class: "preview quote", dir: "auto" });
  const another = button("Another card", () => pick(null), { class: "quiet-button" });
  another.append(keycap("⌫"));
  const which = el("div", { class: "options which" }, ...choices);
  const what = el("div", { class: "what" }, words, el("div", { class: "options" }, ...options));
  const draw = () => {
    const asks = card === null;
    heading.textContent = asks ? "Flag which card?" : cards.length === 1 ? "What is wrong with it?" : `What is wrong with card ${numbers.get(card)}?`;
    which.hidden = !asks;
    what.hidden = asks;
    another.hidden = asks || cards.length === 1;
    if (asks) return;
    words.textContent = firstWords(cards.find((each) => each.id === card));
    const had = session.draft.flags[card] ?? [];
    options.forEach((option, index) => {
      option.setAttribute("aria-pressed", String(had.includes(flags[index].name)));
      option.hidden = !isOffered(flags[index]);
    });
  };
  const done = button("Done", () => shut(dialog), { class: "submit" });
  const dialog = open("Flag a card", [which, what, el("footer", {}, another, done)], {
    onkey: (event) => {
      const number = digit(event);
      if (number !== null && card !== null) toggle(number - 1);
      else if (number !== null && number <= cards.length) pick(cards[number - 1].id);
      if (event.key === "Backspace" && !another.hidden) pick(null);
      if (event.key !== "Enter" || event.target.matches("button")) return;
      event.preventDefault();
      shut(dialog);
    },
  });
  const heading = dialog.querySelector("h2");
  draw();
}

/** Enough to know a card by, in one line. */
const firstWords = (card) => card.rendered.raw.slice(0, 400).replace(/\s+/g, " ").trim() || "(nothing)";

/** Writing the best response as it should be; every keystroke is in the draft. */
export function editDialog(session, id, numbers) {
  const number = numbers.get(id);
  const original = session.task.cards.find((card) => card.id === id).rendered.raw;
  const box = el("textarea", { rows: 14, maxlength: 200_000, dir: "auto", "aria-label": `Card ${number}, as it should be` });
  const had = session.draft.edit?.response_id === id;
  const another = had ? null : session.draft.edit; // there is one edit an answer
  box.value = had ? session.draft.edit.text : original;
  const untouched = original.replace(/\r\n?/g, "\n"); // as a textarea has it
  box.addEventListener("input", () => {
    const same = box.value === untouched || box.value.trim() === "";
    session.change((draft) => (draft.edit = same ? another : { response_id: id, text: box.value }));
  });
  const drop = () => {
    shut(dialog);
    session.dropEdit();
  };
  const done = button("Done", () => shut(dialog), { class: "submit" });
  const dialog = open(`Card ${number}, as it should be`, [
    el("p", { class: "quiet" }, "Becomes an example to learn from. The order of the cards stays as it is."),
    another && el("p", { class: "warn" }, `What you write here takes the place of your edit of card ${numbers.get(another.response_id)}.`),
    box,
    el("footer", {}, had && button("Drop the edit", drop, { class: "quiet-button" }), done),
  ].filter(Boolean), { wide: true, onkey: (event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && shut(dialog) });
  box.focus();
  box.setSelectionRange(box.value.length, box.value.length);
  box.scrollTop = box.scrollHeight;
}

/** Before an answer goes off without the edit that was written for it. */
export function strayEditDialog(session, number) {
  const go = () => {
    shut(dialog);
    session.change((draft) => (draft.edit = null));
    session.submit();
  };
  const words = `You have edited card ${number}, and now another one is the best. Only an edit of the best is taken.`;
  const send = button("Submit without the edit", go, { class: "submit" });
  send.append(keycap("↵"));
  const dialog = open(`Submit without your edit of card ${number}?`, [
    el("p", {}, words),
    el("footer", {}, button("Back to the cards", () => shut(dialog), { class: "quiet-button" }), send),
  ], {
    onkey: (event) => {
      if (event.key !== "Enter" || event.target.matches("button")) return;
      event.preventDefault();
      if (!event.repeat) go();
    },
  });
}

export async function historyDialog(session) {
  const list = el("div", { class: "history" }, el("p", { class: "quiet" }, "Loading…"));
  const dialog = open("Earlier tasks", [list], { wide: true });
  const handled = await session.past.load();
  if (handled === null) shut(dialog);
  else if (handled.length === 0) fill(list, el("p", { class: "quiet" }, "Nothing yet."));
  else fill(list, ...handled.map((item, index) => historyRow(session, item, index, dialog)));
}

function historyRow(session, item, index, dialog) {
  const when = new Date(item.at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const changes = item.revision > 1 && `, ${count(item.revision - 1, "change")}`;
  const kind = item.kind === "skipped" ? el("span", { class: "chip warn" }, "skipped") : "answered";
  const go = () => {
    shut(dialog);
    session.past.lookAt(index);
  };
  const row = button("", go, { class: "option" });
  const preview = el("span", { class: "preview", dir: "auto" }, item.prompt_preview);
  return fill(row, el("span", { class: "quiet" }, `${when} · `, kind, changes), preview);
}

export function helpDialog() {
  const cap = (key) => (key === "–" ? " – " : keycap(key));
  const rows = HELP.map(([keys, meaning]) => el("div", {}, el("dt", {}, ...keys.split(" ").map(cap)), el("dd", {}, meaning)));
  const more = "Or drag the cards, by their number, into the order at the foot of the page; or use the buttons on each card.";
  open("Keys", [el("dl", { class: "help" }, ...rows), el("p", { class: "quiet" }, more)], { wide: true });
}
