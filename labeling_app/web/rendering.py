"""Model text as a tree of known nodes, out of which the page builds elements and text; nobody parses it as HTML.

A node is a string, or `{"t": kind, "c": [nodes]}` with kinds out of `KINDS`. Links and images carry `href` and are
shown as text; `ol` may carry `start`, `pre` `lang`, and `message` (one of a conversation) its `role`.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Iterable, MutableMapping, Sequence
from typing import Any

import orjson
from markdown_it import MarkdownIt
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

from labeling_app.store import Content

Node = str | dict[str, Any]

_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "ul", "ol", "li", "blockquote", "hr", "message"}
_TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
_INLINE = {"em", "strong", "s", "code", "br", "link", "image"}
KINDS = frozenset(_BLOCKS | _TABLES | _INLINE)

MAX_NESTING = 50
MAX_MARKDOWN = 400_000
"""Characters; longer texts are shown as they are."""
MAX_NODES = 30_000
"""More than this a browser lays out too slowly; such a text is shown as it is."""
MAX_LINES = 10_000
MAX_STEPS = 25_000
"""Markdown has texts that take a parser time by the square of their length, such as `[[[[...`."""
MAX_PLAIN = 10_000
"""Characters; a plain text as long as this is within all other limits."""
MAX_FORMULA = 5_000
"""Characters."""

_FORMULAS = {"\\(": "\\)", "\\[": "\\]", "$$": "$$", "$": "$"}
_PLAIN_LINE = r"[^\W\d_](?:[^\x00-\x1f\x7f\\`*_\[\]<&~$|]*[^\s\x00-\x1f\x7f\\`*_\[\]<&~$|])?"
_PLAIN = re.compile(rf" ?({_PLAIN_LINE}(?:\n{{1,2}}{_PLAIN_LINE})*)\n*")
"""Lines that begin with a letter and hold nothing that Markdown could take for anything else."""

_TEXT_TYPES = {"text", "text_special", "html_inline", "html_block"}
_TAGS = {"paragraph": "p", "bullet_list": "ul", "ordered_list": "ol", "list_item": "li"}


def render(content: Content) -> dict[str, Any]:
    """What the page shows of a text or a conversation: `raw`, `tree`, `truncated` (never: nothing is left out)."""
    if isinstance(content, str):
        return {"raw": content, "tree": tree(content), "truncated": False}
    messages = [(str(message.get("role", "")), _text(message)) for message in content]
    nodes: list[Node] = [{"t": "message", "role": role, "c": tree(text)} for role, text in messages]
    raw = "\n\n".join(f"{role}:\n{text}" for role, text in messages)
    return {"raw": raw, "tree": nodes, "truncated": False}


def tree(text: str) -> list[Node]:
    """The nodes of a Markdown text; one that is too large or nests too deep is shown as it is."""
    if len(text) > MAX_MARKDOWN or text.count("\n") > MAX_LINES:
        return _as_it_is(text)
    if len(text) <= MAX_PLAIN and (plain := _PLAIN.fullmatch(text)) is not None:
        return [{"t": "p", "c": _lines(paragraph)} for paragraph in plain[1].split("\n\n")]
    return _parsed(text)


def document(text: str) -> list[Node]:
    """As `tree`, of a file whose writer has wrapped its lines: the end of one is a space, as Markdown has it."""
    return _parsed(text, wrapped=True)


def _parsed(text: str, *, wrapped: bool = False) -> list[Node]:
    try:
        tokens = _MARKDOWN.parse(text)
        if wrapped:
            for child in (child for token in tokens for child in token.children or ()):
                if child.type == "softbreak":
                    child.type, child.content = "text", " "
        if sum(1 + len(token.children or ()) for token in tokens) > MAX_NODES:
            return _as_it_is(text)
        return _nodes(tokens)
    except _TooMuch:
        return _as_it_is(text)


class Renderer:
    """Renders each text once, as JSON, and keeps the last ones: many people look at the same text."""

    def __init__(self, max_bytes: int = 64 << 20) -> None:
        self._max, self._size = max_bytes, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def __call__(self, content: Content) -> orjson.Fragment:
        """As `render`, to be put into `replies.as_json`."""
        key = hashlib.sha256(_as_bytes(content)).digest()
        kept = self._kept.get(key)
        if kept is None:
            kept = to_json(render(content))
            self._keep(key, kept)
        else:
            self._kept.move_to_end(key)
        return orjson.Fragment(kept)

    def _keep(self, key: bytes, rendered: bytes) -> None:
        self._kept[key] = rendered
        self._size += len(rendered)
        while self._size > self._max:
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


def to_json(value: Any) -> bytes:
    """As JSON; halves of surrogate pairs, which have no UTF-8, as escapes."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def _as_bytes(content: Content) -> bytes:
    if isinstance(content, str):
        return b"t" + content.encode("utf-8", "surrogatepass")
    return b"c" + json.dumps(content).encode("ascii")


def _text(message: dict[str, Any]) -> str:
    found = message.get("content", "")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, indent=1)


def _as_it_is(text: str) -> list[Node]:
    return [{"t": "pre", "c": [text]}]


class _TooMuch(Exception):
    """The text would keep the parser busy for too long, or nests too deep."""


class _Inline(ParserInline):
    """The parser of what stands in paragraphs, which gives up in time."""

    def skipToken(self, state: StateInline) -> None:  # noqa: N802 - the library's name
        """Look ahead by one token."""
        _count_step(state.env)
        super().skipToken(state)


def _count_step(env: MutableMapping[str, Any]) -> None:
    env["steps"] = env.get("steps", 0) + 1
    if env["steps"] > MAX_STEPS:
        raise _TooMuch


def _inline_step(state: StateInline, _silent: bool) -> bool:
    _count_step(state.env)
    return False


def _block_step(state: StateBlock, _start: int, _end: int, _silent: bool) -> bool:
    _count_step(state.env)
    return False


def _math(state: StateInline, silent: bool) -> bool:
    """Formulas stay what they are: Markdown would eat their backslashes and take `_` for emphasis."""
    if state.src[state.pos] not in "\\$":
        return False
    end = _end_of_formula(state.src, state.pos, min(state.posMax, state.pos + MAX_FORMULA))
    if end is None:
        return False
    if not silent:
        state.pending += state.src[state.pos : end]
    state.pos = end
    return True


def _end_of_formula(text: str, start: int, limit: int) -> int | None:
    r"""Where the formula that begins at `start` ends: `\( \)`, `\[ \]`, `$$ $$` or `$ $`; None if none does."""
    opening = next((one for one in _FORMULAS if text.startswith(one, start, limit)), None)
    if opening is None:
        return None
    closing = _FORMULAS[opening]
    inside = start + len(opening)
    if opening == "$":  # as Pandoc has it, so that "from 5$ to 10$" is none
        if inside >= limit or text[inside].isspace():
            return None
        limit = _or(text.find("\n", inside, limit), limit)
    at = text.find(closing, inside, limit)
    while at != -1:
        end = at + len(closing)
        is_escaped = text[at - 1] == "\\" and at > inside
        is_price = opening == "$" and (text[at - 1].isspace() or text[end : end + 1].isdigit())
        if at > inside and not is_escaped and not is_price:
            return end
        at = text.find(closing, at + 1, limit)
    return None


def _or(found: int, otherwise: int) -> int:
    return otherwise if found == -1 else found


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark")
    parser.inline = _Inline()
    parser.configure("commonmark")
    parser.options.update({"html": False, "breaks": True, "maxNesting": MAX_NESTING})
    parser.enable(["table", "strikethrough"])
    # definitions of references leave no mark on the page, and people have to see all of the text
    parser.disable(["html_block", "html_inline", "reference"])
    parser.block.ruler.before("table", "step", _block_step)
    parser.inline.ruler.before("text", "step", _inline_step)
    parser.inline.ruler.before("escape", "math", _math)
    return parser


_MARKDOWN = _parser()


def _nodes(tokens: Iterable[Token]) -> list[Node]:
    """The tree that a flat list of tokens, which open and close, stands for."""
    top: list[Node] = []
    open_lists: list[list[Node]] = [top]
    for token in tokens:
        here = open_lists[-1]
        if token.nesting == 1:
            if len(open_lists) >= MAX_NESTING or token.level >= MAX_NESTING - 1:  # there the parser leaves out the rest
                raise _TooMuch
            made = _opened(token)
            if made is None:  # a paragraph of a tight list: its content alone
                open_lists.append(here)
            else:
                here.append(made)
                open_lists.append(made["c"])
        elif token.nesting == -1:
            open_lists.pop()
        else:
            _append(here, _single(token))
    return top


def _opened(token: Token) -> dict[str, Any] | None:
    if token.hidden:
        return None
    name = token.type.removesuffix("_open")
    node: dict[str, Any] = {"t": token.tag if name == "heading" else _TAGS.get(name, name), "c": []}
    if name == "ordered_list" and "start" in token.attrs:
        node["start"] = int(token.attrs["start"])
    if name == "link":
        node["href"] = _address(token, "href")
    assert node["t"] in KINDS, node["t"]
    return node


def _single(token: Token) -> Sequence[Node]:
    if token.type == "inline":
        return _nodes(token.children or ())
    if token.type in _TEXT_TYPES:
        return _lines(token.content)
    if token.type in ("softbreak", "hardbreak"):
        return [{"t": "br"}]
    if token.type == "code_inline":
        return [{"t": "code", "c": [token.content]}]
    if token.type in ("fence", "code_block"):
        language = token.info.strip()
        return [{"t": "pre", "c": [token.content]} | ({"lang": language} if language else {})]
    if token.type == "image":
        return [{"t": "image", "c": [_plain(token.children or ())], "href": _address(token, "src")}]
    assert token.type == "hr", token.type
    return [{"t": "hr"}]


def _address(token: Token, attribute: str) -> str:
    """Where it points to, with the title that a pointer over it would show."""
    address, title = str(token.attrs.get(attribute, "")), token.attrs.get("title")
    return f'{address} "{title}"' if title else address


def _append(here: list[Node], nodes: Sequence[Node]) -> None:
    for node in nodes:
        if isinstance(node, str) and here and isinstance(here[-1], str):
            here[-1] += node
        elif node != "":
            here.append(node)


def _lines(text: str) -> list[Node]:
    """Text, with breaks where it has several lines, as formulas have."""
    if "\n" not in text:
        return [text]
    nodes: list[Node] = []
    for at, line in enumerate(text.split("\n")):
        nodes += [{"t": "br"}, line] if at else [line]
    return nodes


def _plain(tokens: Iterable[Token]) -> str:
    """The alternative text of an image."""
    return "".join(token.content if token.content else _plain(token.children or ()) for token in tokens)
