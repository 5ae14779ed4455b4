// What the annotator has said so far of one task. It lives in localStorage until the server's receipt.

import { uuid } from "./api.js";

/** The browser's store, or where that is forbidden one that lasts as long as the page. */
export const storage = (() => {
  try {
    localStorage.length;
    return localStorage;
  } catch {
    const kept = new Map();
    return {
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, value),
      removeItem: (key) => kept.delete(key),
      keys: () => [...kept.keys()],
    };
  }
})();

/** Whether it could be kept: the browser's store may be full. */
export function keep(key, value) {
  try {
    storage.setItem(key, value);
    return true;
  } catch {
    return false;
  }
}

const allKeys = () => storage.keys?.() ?? Object.keys(storage);

const PREFIX = "rlhf.draft.";
const KEPT_MS = 14 * 24 * 3600 * 1000;

/**
 * @typedef {object} Draft
 * @property {number[][]} tiers best to worst
 * @property {boolean} tieNext whether the next one placed shares the last tier
 * @property {[number, number][]} ratings response id and grade, in the order in which they were given
 * @property {boolean} allBad
 * @property {number|null} strength
 * @property {Record<number, string[]>} flags
 * @property {string} rationale
 * @property {{response_id: number, text: string}|null} edit
 * @property {number} activeMs
 * @property {{path: string, body: string}|null} pending sent, and not yet acknowledged: sent again as it is
 * @property {number} savedAt
 */

/** @returns {Draft} empty, or what `task.answer` says where an earlier answer is revised */
export function newDraft(task) {
  const answer = task.answer ?? {};
  return {
    tiers: answer.tiers ?? [],
    tieNext: false,
    ratings: Object.entries(answer.ratings ?? {}).map(([id, grade]) => [Number(id), grade]),
    allBad: answer.all_bad ?? false,
    strength: answer.strength ?? null,
    flags: answer.flags ?? {},
    rationale: answer.rationale ?? "",
    edit: answer.edit ?? null,
    activeMs: 0,
    pending: null,
    savedAt: 0,
  };
}

/** The body's `answer`, as the server takes it. Where all are bad, those without a place tie behind the others. */
export function answerOf(draft, task) {
  const rated = task.mode === "rate";
  const rest = rated ? [] : without(draft, task);
  return {
    tiers: rated ? [] : rest.length > 0 ? [...draft.tiers, rest] : draft.tiers,
    ratings: rated ? Object.fromEntries(draft.ratings) : null,
    all_bad: draft.allBad,
    strength: !rated && draft.tiers.length > 1 ? draft.strength : null,
    flags: Object.fromEntries(Object.entries(draft.flags).filter(([, names]) => names.length > 0)),
    rationale: draft.rationale.trim() || null,
    edit: draft.edit,
  };
}

/** The cards without a place or a grade: ids. */
export function without(draft, task) {
  const done = new Set(task.mode === "rate" ? draft.ratings.map(([id]) => id) : draft.tiers.flat());
  return task.cards.map((card) => card.id).filter((id) => !done.has(id));
}

/** Whether cards may stay without a place: where all are bad, an order is optional. */
export const isOrderOptional = (draft, task) => draft.allBad && task.mode !== "rate";

/** How many cards still want a place or a grade before the answer can be sent. */
export function numLeft(draft, task) {
  return isOrderOptional(draft, task) ? 0 : without(draft, task).length;
}

/** The best tier, or all with the highest grade. */
function bestOnes(draft, task) {
  if (task.mode !== "rate") return draft.tiers[0] ?? [];
  const highest = Math.max(...draft.ratings.map(([, grade]) => grade));
  return draft.ratings.filter(([, grade]) => grade === highest).map(([id]) => id);
}

/** The response "edit the best" means; of several the one edited already, or else the one the keys speak of. */
export function bestOf(draft, task, current) {
  const best = bestOnes(draft, task);
  const among = best.length === 0 && draft.allBad ? task.cards.map((card) => card.id) : best;
  return [draft.edit?.response_id, current, among[0]].find((id) => among.includes(id)) ?? null;
}

/** Whether an edit belongs to the answer: it is of one of the best, or all are bad, which any can be made better of. */
export function isEditKept(draft, task) {
  return draft.edit === null || draft.allBad || bestOnes(draft, task).includes(draft.edit.response_id);
}

/** Fixes the request of this draft once: every repetition has the same key and the same body. */
export function seal(draft, path, content) {
  draft.pending ??= { path, body: JSON.stringify({ ...content, key: uuid() }) };
  return draft.pending;
}

/** Where the drafts of one person are kept; another person on the same machine does not see them. */
export class Drafts {
  constructor(user) {
    this.prefix = `${PREFIX}${user}/`; // no name holds a slash: `ann` does not see what is of `ann.b`
    this.full = false;
    for (const [key, draft] of this.entries()) if (Date.now() - draft.savedAt > KEPT_MS) storage.removeItem(key);
  }

  key(task) {
    return this.prefix + (task.lease ?? `revision.${task.task_id}.${task.revision}`);
  }

  load(task) {
    const draft = read(this.key(task));
    return draft === null ? newDraft(task) : { ...newDraft(task), ...draft };
  }

  save(task, draft) {
    draft.savedAt = Date.now();
    this.full = !keep(this.key(task), JSON.stringify(draft));
  }

  /** Only the time spent: a draft that another tab has changed, or is sending, or has sent, stays as it is there. */
  saveTime(task, draft) {
    const stored = read(this.key(task));
    if (stored?.savedAt === draft.savedAt && !stored.pending) keep(this.key(task), JSON.stringify(draft));
  }

  /** What another tab has made of this draft since; null when nothing. */
  newer(task, draft) {
    const stored = read(this.key(task));
    return stored !== null && stored.savedAt > draft.savedAt ? { ...draft, ...stored, pending: null } : null;
  }

  remove(task) {
    storage.removeItem(this.key(task));
  }

  /** Requests that were on their way when the page was closed: [key, draft] each. */
  unacknowledged() {
    return this.entries().filter(([, draft]) => draft.pending);
  }

  entries() {
    return allKeys()
      .filter((key) => key.startsWith(this.prefix))
      .map((key) => [key, read(key)])
      .filter(([, draft]) => draft !== null);
  }
}

function read(key) {
  try {
    return JSON.parse(storage.getItem(key) ?? "null");
  } catch {
    return null;
  }
}
