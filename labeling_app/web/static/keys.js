// The keyboard: what a key means, wherever the focus is, except in a box that takes text.

export const HELP = [
  ["1 – 9", "place the card, best first; grade it; or say which of two is better"],
  ["=", "tie the next card with the last; alone, between two: equally good"],
  ["Backspace", "take back the last"],
  ["Enter", "submit"],
  ["← →", "how far the best leads: less, more"],
  ["↑ ↓", "mark a card: the one that is graded, flagged, scrolled"],
  ["PgUp PgDn", "scroll the marked card, where it is long; the arrows do, once it is clicked"],
  ["B", "all bad: none of them is acceptable; an order is then optional"],
  ["F", "flag the marked card; where none is marked, its number comes first: F, card, complaint"],
  ["R", "write why (Esc leaves the box)"],
  ["E", "edit the best: write it as it should be"],
  ["V", "raw text or Markdown, all cards"],
  ["S", "skip, with a reason"],
  ["U", "earlier tasks, to look at and change"],
  ["A", "answer a skipped one after all"],
  ["N", "forward again"],
  ["G", "guidelines"],
  ["?", "this list"],
];

const NAMED = {
  "=": "tie", Backspace: "takeBack", Enter: "submit", ArrowLeft: "weaker", ArrowRight: "stronger", ArrowUp: "up",
  ArrowDown: "down", PageUp: "pageUp", PageDown: "pageDown", a: "again", b: "allBad", f: "flag", r: "rationale", e: "edit", v: "raw", s: "skip", u: "back", n: "forward",
  g: "guidelines", "?": "help", Escape: "escape",
};
const REPEATABLE = new Set(["up", "down", "pageUp", "pageDown", "weaker", "stronger"]);

/** @param {Record<string, (argument?: number) => boolean|void>} commands a command that returns false took nothing */
export function listen(commands) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const typing = isTyping(event.target);
    if (typing && event.key === "Escape") event.target.blur();
    if (typing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) run("submit", event);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter" && event.target.closest?.("button, a, summary, [role=button]")) return;
    const digit = digitOf(event);
    if (digit !== null) run("digit", event, digit);
    else if (nameOf(event)) run(nameOf(event), event);
  });

  function run(name, event, argument) {
    if (event.repeat && !REPEATABLE.has(name)) {
      event.preventDefault();
      return;
    }
    if (commands[name]?.(argument) !== false) event.preventDefault();
  }
}

export function isTyping(target) {
  return target instanceof Element && (target.closest("textarea, input, select") !== null || target.isContentEditable);
}

function nameOf(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (NAMED[key]) return NAMED[key];
  // the letter's place on the keyboard, where the layout writes another script
  return /[^\u0000-\u007f]/.test(key) && event.code.startsWith("Key") ? NAMED[event.code.at(-1).toLowerCase()] : undefined;
}

function digitOf(event) {
  if (/^[1-9]$/.test(event.key)) return Number(event.key);
  // a layout that wants Shift for its digits (AZERTY)
  const match = /^(?:Digit|Numpad)([1-9])$/.exec(event.code);
  return match && !event.shiftKey && !NAMED[event.key] ? Number(match[1]) : null;
}
