"""Conversations in the shapes people keep them in: HH-RLHF text, ShareGPT turns, OpenAssistant trees."""

import dataclasses
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from rlhf.datasets.rows import RawRow, Row
from rlhf.records import Text

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

_MARKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
    "developer": "developer",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}

Turn = dict[str, Any]


# HH-RLHF: "\n\nHuman: ...\n\nAssistant: ..." in `chosen` and `rejected`


def expand_hh(row: Row) -> list[Row]:
    """The turns both sides share become the prompt, what follows the completions."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return [_split_messages(chosen, rejected)]
    if not (isinstance(chosen, str) and isinstance(rejected, str)):
        raise ValueError("`chosen` and `rejected` are not two transcripts")
    shared = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - letter by letter is what is wanted
    prompt_end = shared.rfind(ASSISTANT)
    if prompt_end < 0:
        raise ValueError("`chosen` and `rejected` share no beginning that ends in '\\n\\nAssistant:'")
    prompt_end += len(ASSISTANT)
    return [{"prompt": chosen[:prompt_end], "chosen": chosen[prompt_end:], "rejected": rejected[prompt_end:]}]


def _split_messages(chosen: list[Any], rejected: list[Any]) -> Row:
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise ValueError("`chosen` and `rejected` do not begin with the same message")
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def parse_transcript(text: str) -> list[Turn]:
    """HH text as messages; text before the first marker is what the system says."""
    pieces = _MARKER.split(text)
    turns = [{"role": "system", "content": pieces[0].strip()}] if pieces[0].strip() else []
    for name, content in zip(pieces[1::2], pieces[2::2], strict=True):
        if content.strip():
            turns.append({"role": "user" if name == "Human" else "assistant", "content": content.strip()})
    return turns


def is_transcript(text: str) -> bool:
    """Whether `text` begins as HH transcripts do."""
    return text.startswith((HUMAN, HUMAN.lstrip()))


def render_transcript(turns: list[Turn]) -> str:
    """Messages as HH text."""
    names = {"user": HUMAN, "assistant": ASSISTANT, "tool": "\n\nTool:"}
    return "".join(
        f"{names[turn['role']]} {turn['content']}" if turn["role"] in names else f"\n\n{turn['content']}"
        for turn in turns
    )


def opening(prompt: Text) -> Text:
    """`prompt` up to the first answer: equal for all prompts that were cut from one conversation."""
    if isinstance(prompt, str):
        end = prompt.find(ASSISTANT) if is_transcript(prompt) else -1
        return prompt if end < 0 else prompt[:end]
    answer = next((place for place, turn in enumerate(prompt) if turn.role == "assistant"), 0)
    return prompt[:answer] if answer else prompt


# From texts to messages and back


def to_messages(row: Row) -> Row:
    """`row` with its texts as messages. A `text` column stays: it is nobody's turn."""
    made = dict(row)
    if isinstance(row.get("prompt"), str):
        text = row["prompt"]
        made["prompt"] = parse_transcript(text) if is_transcript(text) else [{"role": "user", "content": text}]
    for name in ("completion", "chosen", "rejected"):
        if isinstance(row.get(name), str):
            made[name] = _answer(row[name])
    if isinstance(row.get("completions"), list):
        made["completions"] = [_answer(one) if isinstance(one, str) else one for one in row["completions"]]
    return made


def _answer(text: str) -> list[Turn]:
    if HUMAN in text:
        return parse_transcript(ASSISTANT + text)
    return [{"role": "assistant", "content": text}] if text.strip() else []


def to_text(row: Row) -> Row:
    """`row` with its messages as HH text; a conversation becomes its last answer and the prompt before it."""
    made = dict(row)
    if isinstance(row.get("messages"), list):
        turns = _turns(made.pop("messages"))
        if turns and turns[-1]["role"] == "assistant" and len(turns) > 1:
            made |= {"prompt": turns[:-1], "completion": turns[-1:]}
        else:
            made["text"] = render_transcript(turns)
    if isinstance(made.get("prompt"), list):
        made["prompt"] = render_transcript(_turns(made["prompt"])) + ASSISTANT
    for name in ("completion", "chosen", "rejected"):
        if isinstance(made.get(name), list):
            made[name] = _continuation(made[name])
    if isinstance(row.get("completions"), list):
        made["completions"] = [_continuation(one) if isinstance(one, list) else one for one in row["completions"]]
    return made


def _continuation(turns: list[Any]) -> str:
    return render_transcript(_turns(turns)).removeprefix(ASSISTANT)


def _turns(turns: list[Any]) -> list[Turn]:
    for turn in turns:
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str) or "role" not in turn:
            raise ValueError(f"holds a message without `role` or `content` (found {str(turn)[:60]})")
    return turns


# ShareGPT: {"conversations": [{"from": "human", "value": ...}]}

SHAREGPT_COLUMNS = ("conversations", "conversation", "messages", "system")


def is_sharegpt(row: Row, ours: frozenset[str]) -> bool:
    """Whether `row` holds turns with `from` and `value`, or any turns in a `conversations` column."""
    turns = _sharegpt_turns(row)
    return bool(turns) and isinstance(turns[0], dict) and ("messages" not in row or "from" in turns[0])


def _sharegpt_turns(row: Row) -> list[Any]:
    turns = next((row[name] for name in SHAREGPT_COLUMNS[:3] if row.get(name)), None)
    return turns if isinstance(turns, list) else []


def expand_sharegpt(row: Row) -> list[Row]:
    """A conversation; or a preference, where `chosen` and `rejected` are turns that follow it."""
    turns = [_message(turn) for turn in _sharegpt_turns(row)]
    if not turns:
        raise ValueError("`conversations` holds no turns")
    if isinstance(row.get("system"), str) and row["system"].strip():
        turns.insert(0, {"role": "system", "content": row["system"]})
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, dict) and isinstance(rejected, dict):
        return [{"prompt": turns, "chosen": [_message(chosen)], "rejected": [_message(rejected)]}]
    return [{"messages": turns}]


def _message(turn: Any) -> Turn:
    if not isinstance(turn, dict):
        raise ValueError(f"holds a turn that is no object (found {str(turn)[:60]})")
    who, content = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
    if who not in _ROLES:
        raise ValueError(f"holds a turn of {who!r}; known are {', '.join(_ROLES)}")
    if not isinstance(content, str):
        raise ValueError(f"holds a turn whose text is {content!r}")
    return {"role": _ROLES[who], "content": content}


# OpenAssistant: trees of messages, with people's ranks over the replies to one prompt


def is_tree(row: Row, ours: frozenset[str]) -> bool:
    """Whether `row` is a tree of messages, or one message of the flat form."""
    root = row.get("prompt")
    return (isinstance(root, dict) and "replies" in root) or {
        "message_id",
        "parent_id",
        "text",
        "role",
    } <= row.keys()


def gather_trees(raws: Iterable[RawRow]) -> Iterator[RawRow]:
    """Trees out of the flat form, in which every message is a row that names its parent."""
    nodes: dict[str, Row] = {}
    roots: list[tuple[RawRow, Row]] = []
    rows = []
    for raw in raws:
        if not isinstance(raw.row, dict) or not is_tree(raw.row, frozenset()):
            yield raw
            continue
        node = raw.row | {"replies": []}
        nodes[str(node["message_id"])] = node
        rows.append((raw, node))
    for raw, node in rows:
        parent = node["parent_id"]
        if parent is None:
            roots.append((raw, node))
        elif parent in nodes:
            nodes[parent]["replies"].append(node)
        else:
            yield raw.bad(f"replies to message {parent}, which is not in the file")
    for raw, node in roots:
        yield dataclasses.replace(raw, row={"prompt": node})


def expand_tree(row: Row) -> list[Row]:
    """One ranking for every message with two or more ranked replies; the prompt is the whole way to it."""
    root = row.get("prompt")
    if not isinstance(root, dict):
        raise ValueError("`prompt` is no tree of messages")
    made: list[Row] = []
    todo: list[tuple[Row, list[Turn]]] = [(root, [])]
    while todo:
        node, before = todo.pop()
        if node.get("deleted"):
            continue
        path = [*before, _message({"from": node.get("role"), "value": node.get("text")})]
        replies = [reply for reply in node.get("replies") or [] if not reply.get("deleted")]
        todo += [(reply, path) for reply in reversed(replies)]
        ranked = sorted({reply["rank"] for reply in replies if isinstance(reply.get("rank"), int)})
        if node.get("role") == "assistant" or sum(isinstance(reply.get("rank"), int) for reply in replies) < 2:
            continue
        made.append(
            {
                "prompt": path,
                "completions": [[_message({"from": "assistant", "value": reply.get("text")})] for reply in replies],
                "tiers": [[at for at, reply in enumerate(replies) if reply.get("rank") == rank] for rank in ranked],
                "models": [str(reply.get("model_name") or "human") for reply in replies],
                "task": str(node.get("message_id")),
                "lang": node.get("lang"),
            }
        )
    if not made:
        raise ValueError("is a tree in which no message has two ranked replies")
    return made
