"""Model text that attacks the page of those who judge it: nothing runs, nothing is asked for, nothing is hidden."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from annotator import Annotator, task
from hostile_texts import PAYLOADS
from serving import App

pytestmark = pytest.mark.browser

CARDS = 6
SitDown = Callable[..., Annotator]

ALL_WHO_RAN = """
window.ran = [];
window.pwned = () => window.ran.push("pwned");
for (const name of ["alert", "confirm", "prompt", "open", "print"]) window[name] = () => window.ran.push(name);
document.addEventListener("securitypolicyviolation", (event) =>
  window.ran.push(`${event.violatedDirective} stopped ${event.blockedURI}`));
"""

TAGS = {"DIV", "SPAN", "P", "H3", "H4", "H5", "H6", "EM", "STRONG", "S", "CODE", "PRE", "UL", "OL", "LI", "BLOCKQUOTE"}
TAGS |= {"HR", "BR", "TABLE", "THEAD", "TBODY", "TR", "TH", "TD"}
ATTRIBUTES = {"class", "dir", "start", "data-code", "data-times", "data-role"}
CLASSES = {"text", "markdown", "raw", "link", "address", "image", "unseen", "table", "message", "role"}
OURS = {"label", "static", "api", "favicon.ico", "manifest.json"}

WHAT_STANDS_THERE = """
() => {
  const nodes = [...document.querySelectorAll(".text, .text *")];
  return {
    tags: [...new Set(nodes.map((node) => node.tagName))],
    attributes: [...new Set(nodes.flatMap((node) => node.getAttributeNames()))],
    classes: [...new Set(nodes.flatMap((node) => [...node.classList]))],
    outside: [...document.querySelectorAll(".body")].filter((body) => {
      const frame = body.getBoundingClientRect();
      const text = body.firstElementChild.getBoundingClientRect();
      return text.left < frame.left - 1 || text.right > frame.right + 1 || frame.right > window.innerWidth;
    }).length,
  };
}
"""

RAW_TEXTS = """
(bodies) => bodies.map((body) => {
  const unseen = /[\\p{C}\\p{Zl}\\p{Zp}\\p{Default_Ignorable_Code_Point}\\u2800]|(?! )\\p{Zs}/u;
  let text = "";
  for (const node of body.querySelector(".raw").childNodes) {
    if (node.nodeType === Node.TEXT_NODE) {
      if (unseen.test(node.data.replaceAll("\\n", ""))) throw new Error("unseen: " + JSON.stringify(node.data));
      text += node.data;
    } else {
      if (node.textContent.trim() === "") throw new Error("a marker without text");
      text += String.fromCodePoint(parseInt(node.dataset.code, 16)).repeat(Number(node.dataset.times));
    }
  }
  return text;
})
"""


def test_there_are_enough_of_them_and_none_twice() -> None:
    texts = [text for group in PAYLOADS.values() for text in group]
    assert len(texts) >= 200
    assert max(Counter(texts).values()) == 1


@pytest.mark.parametrize("group", PAYLOADS)
def test_hostile_texts_stay_texts(app: App, sit_down: SitDown, group: str) -> None:
    tasks = list(in_sixes(PAYLOADS[group]))
    app.add_tasks(*[task(texts[0], texts) for texts in tasks])
    annotator = sit_down(open_page=False)
    page = annotator.page
    asked = watch(annotator)
    annotator.open()
    for number, texts in enumerate(tasks, start=1):
        seen = page.evaluate(WHAT_STANDS_THERE)
        assert set(seen["tags"]) <= TAGS
        assert set(seen["attributes"]) <= ATTRIBUTES
        assert set(seen["classes"]) <= CLASSES
        assert seen["outside"] == 0
        page.mouse.move(300, 300 + number)
        annotator.press("v")
        raw = page.locator(".card .body").evaluate_all(RAW_TEXTS)
        assert sorted(raw) == sorted(texts)
        annotator.press(*"123456"[: len(texts)])
        annotator.press("e", "Escape", "Enter")
        annotator.wait_saved(number)
    annotator.press("u")  # the history names them, too
    page.wait_for_selector("text=An earlier answer of yours")
    page.click("#open-history")
    page.wait_for_selector("dialog .preview")
    assert page.evaluate("window.ran") == []
    foreign = [one for one in asked if not one.startswith(f"request {app.address}/")]
    assert foreign == []
    assert {one.split("/")[3].split("?")[0] for one in asked} <= {
        "label",
        "static",
        "api",
        "favicon.ico",
        "manifest.json",
    }


def test_what_ran_or_asked_would_be_noticed(app: App, sit_down: SitDown) -> None:
    app.add_tasks(task())
    annotator = sit_down(open_page=False)
    asked = watch(annotator)
    annotator.open()
    annotator.page.locator(".card .body").first.evaluate(
        "(body) => { body.innerHTML = '<img src=https://evil.example/x onerror=pwned()><iframe src=/login></iframe>' }"
    )
    annotator.page.evaluate("setTimeout(pwned)")
    annotator.page.locator("iframe").wait_for()
    annotator.page.wait_for_timeout(100)
    assert set(annotator.page.evaluate("window.ran")) >= {"pwned", "img-src stopped https://evil.example/x"}
    assert [one for one in asked if one.startswith("frameattached")] != []


def watch(annotator: Annotator) -> list[str]:
    """What the page will ask for and open from now on; what runs will stand in its `window.ran`."""
    asked: list[str] = []
    for event in ("request", "websocket", "worker", "popup", "dialog", "download", "frameattached"):
        annotator.page.on(event, lambda what, event=event: asked.append(f"{event} {getattr(what, 'url', what)}"))
    annotator.context.add_init_script(ALL_WHO_RAN)
    return asked


def in_sixes(texts: Sequence[str]) -> Any:
    """As many as a task shows; the last task is filled up with the first texts."""
    for start in range(0, len(texts), CARDS):
        yield [*texts, *texts][start : start + CARDS]
