// Dragging with mouse, pen or finger: a card or a chip is dropped between tiers, onto another (a tie), or out.

import { el, keycap } from "./dom.js";

const SLACK_PX = 6; // less is a click

/**
 * @param {HTMLElement} root holds what has `data-drag` (an id) and the targets: `data-onto`, `data-gap`, `data-out`
 * @param {() => boolean} allowed
 * @param {(id: number, target: {onto?: number, gap?: number, out?: boolean}) => void} drop
 */
export function enableDrag(root, allowed, numberOf, drop) {
  let drag = null;

  root.addEventListener("pointerdown", (event) => {
    const source = event.target.closest("[data-drag]");
    if (!source || event.button !== 0 || !allowed()) return;
    const id = Number(source.dataset.drag);
    drag = { id, source, x: event.clientX, y: event.clientY, pointer: event.pointerId, ghost: null, target: null };
  });

  window.addEventListener("pointermove", (event) => {
    if (drag?.pointer !== event.pointerId) return;
    if (!drag.ghost) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < SLACK_PX) return;
      drag.ghost = el("div", { class: "ghost", "aria-hidden": "true" }, keycap(numberOf(drag.id)));
      root.append(drag.ghost);
      root.classList.add("dragging");
      drag.source.setPointerCapture?.(event.pointerId);
    }
    event.preventDefault();
    drag.ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px)`;
    aim(targetAt(event.clientX, event.clientY, drag.id));
  });

  window.addEventListener("pointerup", (event) => {
    if (drag?.pointer !== event.pointerId) return;
    const { ghost, id, target } = drag;
    end();
    if (!ghost) return;
    swallowClick();
    if (target) drop(id, meaning(target));
  });
  window.addEventListener("pointercancel", end);
  window.addEventListener("keydown", (event) => event.key === "Escape" && end(), true);

  function aim(target) {
    if (drag.target === target) return;
    drag.target?.classList.remove("over");
    target?.classList.add("over");
    drag.target = target;
  }

  function end() {
    if (!drag) return;
    drag.target?.classList.remove("over");
    drag.ghost?.remove();
    root.classList.remove("dragging");
    drag = null;
  }
}

function targetAt(x, y, id) {
  const under = document.elementFromPoint(x, y);
  const target = under?.closest("[data-onto], [data-gap], [data-out]");
  if (Number(target?.dataset.onto) === id) return null;
  // anywhere else in the order: behind the last
  return target ?? under?.closest(".order")?.querySelector(".gap.last") ?? null;
}

function meaning({ dataset }) {
  if (dataset.onto !== undefined) return { onto: Number(dataset.onto) };
  if (dataset.gap !== undefined) return { gap: Number(dataset.gap) };
  return { out: true };
}

/** The click that follows a drag is none. */
function swallowClick() {
  const swallow = (event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  window.addEventListener("click", swallow, { capture: true, once: true });
  setTimeout(() => window.removeEventListener("click", swallow, { capture: true }), 0);
}
