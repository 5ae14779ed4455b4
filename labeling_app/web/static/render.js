// Model text on the page. The server has parsed it into a tree of known nodes; no parser of HTML ever sees it.

import { el } from "./dom.js";

const TAGS = {
  p: "p", h1: "h3", h2: "h4", h3: "h5", h4: "h6", h5: "h6", h6: "h6", em: "em", strong: "strong", s: "s", code: "code",
  pre: "pre", ul: "ul", ol: "ol", li: "li", blockquote: "blockquote", hr: "hr", br: "br", table: "table",
  thead: "thead", tbody: "tbody", tr: "tr", th: "th", td: "td",
};
const BLOCKS = new Set(["p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "li", "blockquote", "th", "td"]);

/** @param {{tree: any[]}} rendered */
export function markdown(rendered) {
  return el("div", { class: "text markdown", dir: "auto" }, ...rendered.tree.map(element));
}

function element(node) {
  if (typeof node === "string") return document.createTextNode(node);
  const children = (node.c ?? []).map(element);
  if (node.t === "link") return el("span", { class: "link" }, ...children, address(node, textOf(node)));
  if (node.t === "image") return el("span", { class: "image" }, `[image: ${textOf(node)} (${node.href ?? ""})]`);
  if (node.t === "message") return message(node, children);
  const tag = TAGS[node.t];
  if (tag === undefined) return el("span", {}, ...children);
  const props = BLOCKS.has(node.t) ? { dir: "auto" } : {};
  if (node.t === "ol" && Number.isInteger(node.start)) props.start = node.start;
  return node.t === "table" ? el("div", { class: "table" }, el(tag, props, ...children)) : el(tag, props, ...children);
}

function textOf(node) {
  return typeof node === "string" ? node : (node.c ?? []).map(textOf).join("");
}

/** A link is not followed from here: its address is shown beside its text. */
function address(node, text) {
  return node.href && node.href !== text ? el("span", { class: "address" }, `(${node.href})`) : null;
}

function message(node, children) {
  const role = el("span", { class: "role" }, node.role ?? "");
  return el("div", { class: "message", "data-role": node.role ?? "" }, role, el("div", { dir: "auto" }, ...children));
}

// What leaves no mark of its own on the screen, moves what stands beside it, or stands on a tower of accents.
const UNSEEN =
  /((?<=\p{M}{4})\p{M}|[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs})\1*/gu;
// Those of them that have no business in ordinary prose (joiners, soft hyphens and direction marks have).
const SUSPICIOUS =
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u200b\u202a-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/gu;

/** The text itself, with a marker in the place of each character that cannot be seen. */
export function raw(rendered) {
  const node = el("div", { class: "text raw", dir: "auto" });
  let end = 0;
  for (const match of rendered.raw.matchAll(UNSEEN)) {
    if (match[1] === "\n") continue;
    node.append(rendered.raw.slice(end, match.index), marker(match[1], match[0].length / match[1].length));
    end = match.index + match[0].length;
  }
  node.append(rendered.raw.slice(end));
  return node;
}

function marker(character, times) {
  const code = `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
  const name = character === "\t" ? "⇥" : code;
  const label = times > 1 ? `${name}×${times}` : name;
  return el("span", { class: "unseen", "data-code": code.slice(2), "data-times": times }, label);
}

export function numSuspicious(rendered) {
  return rendered.raw.match(SUSPICIOUS)?.length ?? 0;
}
