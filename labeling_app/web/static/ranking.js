// An order in the making: tiers from best to worst, ties share a tier. Pure functions; each returns new tiers.

/** @typedef {number[][]} Tiers ids of responses */

const copy = (tiers) => tiers.map((tier) => [...tier]);
const tidy = (tiers) => tiers.filter((tier) => tier.length > 0);

/** The tier in which `id` stands, -1 when it is not placed. */
export function tierOf(tiers, id) {
  return tiers.findIndex((tier) => tier.includes(id));
}

/** Puts `id` behind the worst placed one, or beside it. */
export function place(tiers, id, tied = false) {
  const next = remove(tiers, id);
  if (tied && next.length > 0) next.at(-1).push(id);
  else next.push([id]);
  return next;
}

/** Without the one that was placed last. */
export function takeBack(tiers) {
  const next = copy(tiers);
  next.at(-1)?.pop();
  return tidy(next);
}

export function remove(tiers, id) {
  return tidy(tiers.map((tier) => tier.filter((other) => other !== id)));
}

/** One step towards the best (-1) or the worst (+1): out of a tie, or past the neighbouring tier. */
export function move(tiers, id, step) {
  const from = tierOf(tiers, id);
  if (from < 0) return tiers;
  const next = copy(tiers);
  if (next[from].length > 1) {
    next[from] = next[from].filter((other) => other !== id);
    next.splice(step < 0 ? from : from + 1, 0, [id]);
    return next;
  }
  const to = from + step;
  if (to < 0 || to >= next.length) return tiers;
  [next[from], next[to]] = [next[to], next[from]];
  return next;
}

/** Ties `id` with the tier above it; the best one is tied with the tier below. */
export function tieWithNeighbour(tiers, id) {
  const from = tierOf(tiers, id);
  const to = from > 0 ? from - 1 : from + 1;
  return from < 0 || to >= tiers.length ? tiers : dropOnto(tiers, id, tiers[to][0]);
}

/** Ties `id` with `other`. */
export function dropOnto(tiers, id, other) {
  if (id === other) return tiers;
  const next = remove(tiers, id);
  next[tierOf(next, other)].push(id);
  return next;
}

/** Puts `id` alone before the tier that is now at `gap`; the last gap is behind the worst. */
export function dropBetween(tiers, id, gap) {
  const next = tiers.map((tier) => tier.filter((other) => other !== id));
  next.splice(gap, 0, [id]);
  return tidy(next);
}

function ordinal(number) {
  const isTeen = number % 100 > 10 && number % 100 < 14;
  return number + ((!isTeen && { 1: "st", 2: "nd", 3: "rd" }[number % 10]) || "th");
}

/** "best", "2nd =" ...; null when `id` is not placed. */
export function placeName(tiers, id) {
  const tier = tierOf(tiers, id);
  if (tier < 0) return null;
  return (tier === 0 ? "best" : ordinal(tier + 1)) + (tiers[tier].length > 1 ? " =" : "");
}
