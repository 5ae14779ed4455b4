// Starts the annotators' page: the first task is fetched while Gradio lays out the page, and moves in when it has.

import { Clock } from "./clock.js";
import { editDialog, flagDialog, helpDialog, historyDialog, skipDialog, strayEditDialog } from "./dialogs.js";
import { bestOf, isOrderOptional, numLeft, without } from "./draft.js";
import { enableDrag } from "./drag.js";
import { Header } from "./header.js";
import { listen } from "./keys.js";
import { dropBetween, dropOnto, place, placeName, remove, takeBack } from "./ranking.js";
import { Session } from "./session.js";
import { Surface } from "./surface.js";

const session = new Session();

const numberOf = (id) => surface.numbers.get(id);
const wherePlaced = (id) => `Card ${numberOf(id)}: ${placeName(session.draft.tiers, id) ?? "not placed"}.`;
const whatIsLeft = () => {
  const left = numLeft(session.draft, session.task);
  return left === 0 ? " Enter submits." : ` ${left} to go.`;
};

/** Changes the order of the cards, and says where `id` came to stand. */
function reorder(id, update) {
  session.change((draft) => {
    draft.tiers = update(draft.tiers);
    draft.tieNext = false;
  }, () => wherePlaced(id) + whatIsLeft());
}

function grade(id, value) {
  session.change((draft) => {
    draft.ratings = [...draft.ratings.filter(([other]) => other !== id), [id, value]];
    const graded = new Set(draft.ratings.map(([other]) => other));
    session.current = session.task.cards.find((card) => !graded.has(card.id))?.id ?? id;
  }, () => `Card ${numberOf(id)}: ${value} of 7.` + whatIsLeft());
  surface.cards.find((card) => card.id === session.current)?.node.scrollIntoView({ block: "nearest" });
}

/** Marks another card; in a text that scrolls and has the focus, the arrows scroll it. */
function mark(step) {
  if (session.task === null || document.activeElement.matches(".body[tabindex='0']")) return false;
  const ids = session.task.cards.map((card) => card.id);
  const from = ids.indexOf(surface.marked);
  const to = from < 0 && step < 0 ? ids.length - 1 : from + step;
  if (from >= 0 && ids[to] === undefined && session.task.mode !== "rate") return false; // on with the page
  surface.mark(ids[Math.min(Math.max(to, 0), ids.length - 1)]);
  surface.show(surface.marked);
  session.say(`Card ${numberOf(surface.marked)}.`);
}

function digit(number) {
  if (!session.open) return;
  const { task, draft } = session;
  if (task.mode === "rate") {
    if (number <= 7) grade(session.current, number);
    return;
  }
  const id = task.cards[number - 1]?.id;
  if (id === undefined) return;
  session.current = id;
  surface.marked = null;
  if (task.mode !== "rank") reorder(id, () => [[id], task.cards.map((card) => card.id).filter((other) => other !== id)]);
  else if (placeName(draft.tiers, id)) session.say(wherePlaced(id) + " Backspace takes back the last.");
  else reorder(id, (tiers) => place(tiers, id, draft.tieNext));
}

function tie() {
  if (!session.open || session.task.mode === "rate") return;
  const ids = session.task.cards.map((card) => card.id);
  if (session.task.mode !== "rank") {
    session.change((draft) => (draft.tiers = [ids]), "Equally good. Enter submits.");
  } else if (session.draft.tiers.length > 0 && without(session.draft, session.task).length > 0) {
    session.change((draft) => (draft.tieNext = !draft.tieNext), () => session.draft.tieNext ? "The next one ties." : "No tie.");
  }
}

function back() {
  session.change((draft) => {
    if (draft.tieNext) draft.tieNext = false;
    else if (session.task.mode === "rate") session.current = draft.ratings.pop()?.[0] ?? session.current;
    else if (session.task.mode === "rank") draft.tiers = takeBack(draft.tiers);
    else draft.tiers = [];
  }, () => "Taken back." + whatIsLeft());
}

function strength(value) {
  if (session.draft?.tiers.length < 2) return;
  session.change((draft) => (draft.strength = draft.strength === value ? null : value));
}

function lead(step) {
  if (!session.open || session.draft.tiers.length < 2) return false;
  const next = (session.draft.strength ?? 0) + step;
  const value = next < 1 ? null : Math.min(next, 4);
  const names = ["slightly", "clearly", "much", "far"];
  session.change((draft) => (draft.strength = value), value ? `The best is ${names[value - 1]} better.` : "No lead given.");
}

function edit() {
  if (!session.open) return;
  const id = bestOf(session.draft, session.task, session.current);
  if (id === null) {
    session.say("Say first which one is the best.");
    return;
  }
  if (session.notice?.undo) session.setPhase(session.phase); // what comes now is not to be undone with it
  editDialog(session, id, surface.numbers);
}

function allBad() {
  session.change((draft) => (draft.allBad = !draft.allBad), () => {
    if (!session.draft.allBad) return "Not all bad.";
    return isOrderOptional(session.draft, session.task) ? "All bad. An order is optional; Enter submits." : "All bad." + whatIsLeft();
  });
}

function submit() {
  clock.count();
  session.submit();
}

const actions = {
  edit,
  submit,
  strength,
  tie,
  choose: digit,
  grade: (id, value) => {
    session.current = id;
    grade(id, value);
  },
  move: (id, update) => reorder(id, update),
  show: (id) => surface.show(id),
  focus: (id) => surface.mark(id),
  flag: (id) => session.open && flagDialog(session, id, surface.numbers),
  skip: () => session.open && session.task.lease && skipDialog(session),
  allBad,
  history: () => session.me && historyDialog(session),
};

const surface = new Surface(session, actions);
const header = new Header(session);
const clock = new Clock(session, () => {
  surface.setLease(clock.leaseText());
  header.update(clock.activeMs);
});
session.addEventListener("me", () => header.setMe());
session.addEventListener("task", () => clock.restart());
session.addEventListener("stranger", () => location.reload());
session.addEventListener("stray", () => strayEditDialog(session, numberOf(session.draft.edit.response_id)));
session.addEventListener("progress", () => header.update(clock.activeMs));

listen({
  digit,
  tie,
  edit,
  takeBack: back,
  submit,
  weaker: () => lead(-1),
  stronger: () => lead(+1),
  up: () => mark(-1),
  down: () => mark(+1),
  allBad,
  pageUp: () => surface.scroll(-1),
  pageDown: () => surface.scroll(+1),
  flag: () => actions.flag(surface.marked),
  rationale: () => surface.rationale.focus(),
  raw: () => {
    const on = !surface.cards.some((card) => card.isRaw);
    for (const card of surface.cards) card.toggleRaw(on);
    session.say(on ? "Raw text." : "Markdown.");
  },
  skip: actions.skip,
  back: () => session.past.goBack(),
  again: () => (session.readOnly ? session.past.takeAgain() : false),
  forward: () => session.past.goForward(),
  guidelines: () => header.toggleGuidelines(),
  help: helpDialog,
  escape: () => {
    if (session.draft?.tieNext) back();
    else if (session.task === null || session.task.mode === "rate" || surface.marked === null) return false;
    else surface.mark(null);
  },
});

enableDrag(document.body, () => session.open && session.task.mode !== "rate", numberOf, (id, target) => {
  reorder(id, (tiers) => {
    if (target.out) return remove(tiers, id);
    return target.onto ? dropOnto(tiers, id, target.onto) : dropBetween(tiers, id, target.gap);
  });
});

// after a click with the mouse the keys speak of the task again, not of the button
document.addEventListener("click", (event) => {
  const pressed = event.target.closest?.("button");
  if (pressed && event.detail > 0 && !pressed.closest("dialog")) pressed.blur();
});

// another tab of the same person has changed the draft, or sent the task off
window.addEventListener("storage", (event) => {
  if (!session.open || event.key !== session.drafts.key(session.task)) return;
  if (event.newValue !== null) session.catchUp();
  else if (session.task.lease) session.claim();
});
for (const name of ["focus", "pageshow"]) {
  window.addEventListener(name, () => {
    session.catchUp();
    session.resume();
  });
}

const PLACES = ["page-title", "page-progress", "page-clock", "page-surface", "page-guidelines"];
const MENU = { "open-guidelines": () => header.toggleGuidelines(), "open-history": actions.history, "open-help": helpDialog };

/** Into Gradio's layout, once it stands. */
function moveIn() {
  if (![...PLACES, ...Object.keys(MENU)].every((id) => document.getElementById(id))) return false;
  watcher.disconnect();
  document.getElementById("page-surface").append(surface.node);
  header.mount();
  if (session.me === null) header.title.textContent = document.title; // until it is known who reads it, and that may not be
  header.update(0);
  for (const [id, onclick] of Object.entries(MENU)) document.getElementById(id).addEventListener("click", onclick);
  if (session.task) surface.title.focus({ preventScroll: true });
  return true;
}

surface.setState();
session.start();
const watcher = new MutationObserver(moveIn);
if (!moveIn()) watcher.observe(document.documentElement, { childList: true, subtree: true });
