// Elements without markup: everything on the page is made here, from a closed list of tags and from text nodes.

/**
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`, `data-*`, `aria-*` and other attributes; `on*` functions; booleans
 * @param {...(Node|string|null|undefined|false)} children strings become text nodes
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  fill(node, ...children);
  return node;
}

/** Puts `children` in the place of what `node` held. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** A button that leaves the focus alone when it is clicked with a mouse, so that the keys go on working. */
export function button(label, onclick, props = {}) {
  return el("button", { type: "button", onclick, ...props }, label);
}

export function keycap(key) {
  return el("kbd", {}, key);
}

/** Sets text only where it changed, so that screen readers and selections are left in peace. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function count(number, noun, plural = `${noun}s`) {
  return `${number} ${number === 1 ? noun : plural}`;
}
