"""Model text becomes a tree of known nodes; nothing of it is lost, and nothing in it can keep the server busy."""

import json
import time
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling_app.web import rendering
from labeling_app.web.rendering import KINDS, Renderer, document, render, to_json, tree


def text_of(nodes: list[Any]) -> str:
    """All that is shown, addresses included."""
    return "".join(
        node if isinstance(node, str) else text_of(node.get("c", [])) + node.get("href", "") + node.get("lang", "")
        for node in nodes
    )


def kinds_of(nodes: list[Any]) -> set[str]:
    inner = [node for node in nodes if not isinstance(node, str)]
    return {node["t"] for node in inner}.union(*(kinds_of(node.get("c", [])) for node in inner))


def depth_of(nodes: list[Any]) -> int:
    return 1 + max((depth_of(node.get("c", [])) for node in nodes if not isinstance(node, str)), default=0)


def p(*children: Any) -> dict[str, Any]:
    return {"t": "p", "c": list(children)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [p("plain")]),
        ("*a* **b** ~~c~~ `d`", [p({"t": "em", "c": ["a"]}, " ", {"t": "strong", "c": ["b"]}, " ",
                                   {"t": "s", "c": ["c"]}, " ", {"t": "code", "c": ["d"]})]),
        ("one\ntwo", [p("one", {"t": "br"}, "two")]),
        ("# One\n\n###### Six", [{"t": "h1", "c": ["One"]}, {"t": "h6", "c": ["Six"]}]),
        ("- a\n- b", [{"t": "ul", "c": [{"t": "li", "c": ["a"]}, {"t": "li", "c": ["b"]}]}]),
        ("- a\n\n- b", [{"t": "ul", "c": [{"t": "li", "c": [p("a")]}, {"t": "li", "c": [p("b")]}]}]),
        ("7. a", [{"t": "ol", "c": [{"t": "li", "c": ["a"]}], "start": 7}]),
        ("> a", [{"t": "blockquote", "c": [p("a")]}]),
        ("a\n\n---\n", [p("a"), {"t": "hr"}]),
        ("```python\nx < 1\n```", [{"t": "pre", "c": ["x < 1\n"], "lang": "python"}]),
        ("    indented", [{"t": "pre", "c": ["indented\n"]}]),
        (
            "|a|b|\n|-|-|\n|1|2|",
            [
                {
                    "t": "table",
                    "c": [
                        {"t": "thead", "c": [{"t": "tr", "c": [{"t": "th", "c": ["a"]}, {"t": "th", "c": ["b"]}]}]},
                        {"t": "tbody", "c": [{"t": "tr", "c": [{"t": "td", "c": ["1"]}, {"t": "td", "c": ["2"]}]}]},
                    ],
                }
            ],
        ),
        ("[a](http://b)", [p({"t": "link", "c": ["a"], "href": "http://b"})]),
        ('[a](http://b "c")', [p({"t": "link", "c": ["a"], "href": 'http://b "c"'})]),
        ("![a *b*](http://c)", [p({"t": "image", "c": ["a b"], "href": "http://c"})]),
        ("http://not.a.link and (c)", [p("http://not.a.link and (c)")]),
        ("", []),
    ],
)  # fmt: skip
def test_markdown_becomes_nodes(text: str, expected: list[Any]) -> None:
    assert tree(text) == expected


WORDS = ["A", "word", "Zürich", "é", "1", "9.", " ", "  ", "    ", "\n", "\n\n", ".", ",", "!", "(", ")", ":", "-", "=",
         "+", "#", ">", "*", "_", "`", "[", "]", "|", "~~", "$", "\\", "&amp;", "<b>", "http://x.y", "\t", "\r", "\x00",
         "\xa0", "\u2028", "\u200b", "\x0b", "\ud800"]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), max_size=12).map("".join))
def test_a_plain_text_needs_no_parser_and_becomes_what_the_parser_makes_of_it(text: str) -> None:
    assert tree(text) == rendering._parsed(text)


def test_what_is_read_most_often_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "_parsed", lambda _text: pytest.fail("was parsed"))
    text = " Dear Ms Li,\nYour order (no. 48-213) has left; it will come on Friday!\n\nIs that all right?\n"
    assert [node["t"] for node in tree(text)] == ["p", "p"]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<!-- hidden -->",
        "<div>\n\nblock\n\n</div>",
        "<?php x ?>",
        "<![CDATA[x]]>",
        "</p><p>",
    ],
)
def test_html_stays_text(text: str) -> None:
    shown = tree(text)
    assert kinds_of(shown) <= {"p", "br"}
    assert text_of(shown).replace("\n", "") == text.replace("\n", "")


@pytest.mark.parametrize(
    "text",
    [
        r"so \(x_1 * y_2 * z\) holds",
        r"\[ \sum_{i=1}^n a_i \]",
        r"$a_b$ and $c_d$",
        r"$$ \frac{a}{b} \\ c $$",
        r"\( \text{a \(nested\)",
        r"$\$5$",
        r"costs 5$ to 10$, no formula",
        r"a \begin{cases} x_1 \end{cases} b_2",
    ],
)
def test_latex_stays_text(text: str) -> None:
    assert tree(text) == [p(text)]


def test_dollars_of_prices_do_not_swallow_markdown() -> None:
    assert tree("from 5$ *up* to 10$")[0]["c"][1] == {"t": "em", "c": ["up"]}
    assert tree("$ *a* $")[0]["c"][1] == {"t": "em", "c": ["a"]}


def test_definitions_of_references_stay_visible() -> None:
    assert "http://hidden" in text_of(tree("[a]: http://hidden\n\nsee"))


def test_a_conversation_is_a_block_for_each_message() -> None:
    made = render([{"role": "user", "content": "*Hi*"}, {"role": "assistant", "content": "Yes?"}])
    assert made == {
        "raw": "user:\n*Hi*\n\nassistant:\nYes?",
        "tree": [
            {"t": "message", "role": "user", "c": [p({"t": "em", "c": ["Hi"]})]},
            {"t": "message", "role": "assistant", "c": [p("Yes?")]},
        ],
        "truncated": False,
    }


def test_content_that_is_no_text_is_shown_as_json() -> None:
    shown = render([{"role": "tool", "content": [{"type": "text", "text": "<b>"}]}, {"tool_calls": []}])
    assert '"text": "<b>"' in shown["raw"]


@given(st.text(st.characters(exclude_categories=[]), max_size=300))
def test_any_text_gives_known_nodes_and_json_that_holds_every_character(text: str) -> None:
    made = render(text)
    assert kinds_of(made["tree"]) <= KINDS
    assert json.loads(to_json(made))["raw"] == text


WORDS = st.sampled_from(["word", "*", "_", "**", "`", "[", "](", ")", "!", "\n", "\n\n", "- ", "> ", "1. ", "|", "#",
                         "<", "$", "\\(", "\\)", "~~", "```", "    ", "&lt;", "\\", '"', "---"])  # fmt: skip


@given(st.lists(WORDS, max_size=60))
def test_no_word_is_lost(words: list[str]) -> None:
    numbered = [f"w{at}" if word == "word" else word for at, word in enumerate(words)]
    text = " ".join(numbered)
    shown = text_of(tree(text))
    assert [word for word in numbered if word.startswith("w") and word not in shown] == []


@pytest.mark.parametrize(
    "piece",
    ["*a ", "[", "![", "`", "``a`", "> ", "**a", "_a_ ", "$", "$a", "\\(", "\\[", "<", "<a", "&amp;", "|", "|-|\n",
     "- ", "1. ", "#", "~~", "[a](", "[a](<", "[a]: b\n", "\n", "\\", "]", "a\n", "a**b__c", "[]()", "```\n", "\t",
     "\\(a ", "a*b ", "\u202e", "\x00", "😀"],
)  # fmt: skip
def test_300_kb_of_the_worst_keep_the_server_only_briefly(piece: str) -> None:
    text = piece * (300_000 // len(piece))
    started = time.process_time()
    made = render(text)
    assert time.process_time() - started < 5  # 0.3 s when nothing else runs
    assert made["raw"] == text
    assert depth_of(made["tree"]) <= 60
    to_json(made)


@pytest.mark.parametrize(
    "text", [">" * 500 + "a", "- " * 300 + "a", "*" * 2000 + "a" + "*" * 2000, "[" * 900 + "a" + "](b)" * 900]
)
def test_what_nests_too_deep_is_shown_as_it_is(text: str) -> None:
    assert tree(text) == [{"t": "pre", "c": [text]}]


def test_long_prose_is_rendered_in_full() -> None:
    text = "A sentence with *stress*.\n\n" * 10_000
    assert tree(text[: rendering.MAX_MARKDOWN // 4])[0]["c"][1] == {"t": "em", "c": ["stress"]}
    assert tree(text) == [{"t": "pre", "c": [text]}]  # too long for a browser to lay out


def test_texts_are_rendered_once_and_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counting(content: Any) -> dict[str, Any]:
        calls.append(content)
        return {"raw": content}

    monkeypatch.setattr(rendering, "render", counting)
    renderer = Renderer(max_bytes=40)
    for text in ("aaaa", "bbbb", "aaaa", "cccc", "aaaa", "bbbb"):
        assert orjson.loads(orjson.dumps(renderer(text))) == {"raw": text}
    assert calls == ["aaaa", "bbbb", "cccc", "bbbb"]


def test_a_text_is_not_taken_for_a_conversation() -> None:
    renderer = Renderer()
    message = [{"role": "user", "content": "a"}]
    assert orjson.loads(orjson.dumps(renderer(json.dumps(message))))["tree"][0]["t"] == "p"
    assert orjson.loads(orjson.dumps(renderer(message)))["tree"][0]["t"] == "message"


def test_invisible_characters_reach_the_page_unchanged() -> None:
    text = "a\u202eb\u2066c\u200bd\ufeffe\u0007f"
    assert render(text)["raw"] == text
    assert unicodedata.normalize("NFC", text_of(tree(text))) == text


def test_a_document_keeps_only_the_line_breaks_that_were_meant() -> None:
    assert document("Say so when\nnone of them\nserves.  \nThen skip.") == [
        {"t": "p", "c": ["Say so when none of them serves.", {"t": "br"}, "Then skip."]}
    ]
