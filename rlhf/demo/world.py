"""The demo's world: seeded customer tickets, support replies of mixed quality, the files a run starts from.

Whether an (item, issue) pair is for training, development or the held-out evaluation is a fact of the world
and does not depend on a seed: the shipped base model has seen replies to training pairs alone (see
`corpus`).
"""

# ruff: noqa: S311 - seeded draws that make the demo's data, nothing secret

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.demo.lexicon import (
    ACTIONS,
    CLOSINGS,
    CONFUSED,
    DETAILS,
    EMPATHY,
    GREETINGS,
    ITEMS,
    MOODS,
    NEXT_STEPS,
    OFF_TOPIC,
    OFFENDED,
    OPENINGS,
    PROBLEMS,
    RAMBLE,
    REFUSALS,
    RIGHT_ACTION,
    RUDE,
    SOLVED,
    STALLS,
    UNSOLVED,
)
from rlhf.errors import UserError
from rlhf.records import write_jsonl

Split = Literal["train", "dev", "heldout"]

ISSUES: tuple[str, ...] = tuple(PROBLEMS)
NUM_TRAIN_PROMPTS = 2000
NUM_DEV_PROMPTS = 100
NUM_HELDOUT_PROMPTS = 200
NUM_DEMONSTRATIONS = 1500
NUM_DEV_DEMONSTRATIONS = 150

# How replies are mixed: kind of reply -> share. Only "good" and "rude_right" take the right action and no other.
FORUM_KINDS: dict[str, float] = {
    "good": 0.31,
    "rude_right": 0.05,
    "wrong_action": 0.24,
    "many_actions": 0.07,
    "stall": 0.16,
    "refusal": 0.09,
    "ramble": 0.08,
}
LOG_KINDS: dict[str, float] = {
    "good": 0.15,
    "rude_right": 0.06,
    "wrong_action": 0.30,
    "many_actions": 0.1,
    "stall": 0.19,
    "refusal": 0.12,
    "ramble": 0.08,
}
"""Of the support logs that SFT learns from, worse than what the base has read in forums: room for PPO to gain."""


@dataclass(frozen=True)
class Ticket:
    """One customer message: the product, what is wrong with it, and the prompt an agent answers."""

    item: str
    issue: str
    prompt: str


def pair_split(item: str, issue: str) -> Split:
    """The split of an (item, issue) pair: a fifth are held out and a tenth are for development."""
    place = (7 * ITEMS.index(item) + ISSUES.index(issue)) % 10
    return "heldout" if place < 2 else "dev" if place == 2 else "train"


def pairs(split: Split) -> list[tuple[str, str]]:
    """All (item, issue) pairs of a split: 140 for training, 20 for development, 40 held out."""
    return [(item, issue) for item in ITEMS for issue in ISSUES if pair_split(item, issue) == split]


def customer_message(rng: random.Random, item: str, issue: str) -> str:
    """What a customer writes about the issue, without the `Customer:` label."""
    order = str(rng.randint(1000, 9999))
    parts = [rng.choice(OPENINGS), rng.choice(PROBLEMS[issue]), rng.choice(DETAILS), rng.choice(MOODS)]
    return " ".join(part for part in parts if part).format(item=item, order=order)


def as_prompt(message: str) -> str:
    """The prompt for a customer's message; a completion follows it directly and starts with a space."""
    return f"Customer: {message}\nAgent:"


def tickets(seed: int, split: Split, count: int) -> list[Ticket]:
    """`count` seeded tickets of a split; its pairs come up equally often, in shuffled order."""
    rng = random.Random(f"tickets {split} {seed}")
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        deck = pairs(split)
        rng.shuffle(deck)
        chosen += deck
    return [Ticket(i, j, as_prompt(customer_message(rng, i, j))) for i, j in chosen[:count]]


def prompts(seed: int, split: Split, count: int) -> list[str]:
    """The prompts of `tickets(seed, split, count)`."""
    return [ticket.prompt for ticket in tickets(seed, split, count)]


def _issue_patterns() -> list[tuple[str, re.Pattern[str]]]:
    any_item = "|".join(ITEMS)
    slot, group = re.escape("{item}"), f"(?P<item>{any_item})"
    return [
        (issue, re.compile(re.escape(template).replace(slot, group)))
        for issue, templates in PROBLEMS.items()
        for template in templates
    ]


_ISSUE_PATTERNS = _issue_patterns()


def read_ticket(prompt: str) -> Ticket:
    """The ticket behind a prompt of this world.

    Raises:
        UserError: the prompt is not one this world writes.
    """
    for issue, pattern in _ISSUE_PATTERNS:
        if match := pattern.search(prompt):
            return Ticket(match["item"], issue, prompt)
    raise UserError(f"prompt {prompt[:80]!r}: not a ticket of the demo's world, which alone its rubric can judge")


def _maybe(rng: random.Random, share: float, templates: Sequence[str]) -> list[str]:
    return [rng.choice(templates)] if rng.random() < share else []


def _manners(rng: random.Random, core: list[str], share: float) -> list[str]:
    """`core` inside greeting, empathy, next step and closing, each of them there with probability `share`."""
    before = _maybe(rng, share, GREETINGS) + _maybe(rng, share, EMPATHY)
    return before + core + _maybe(rng, share, NEXT_STEPS) + _maybe(rng, share, CLOSINGS)


def _sentences(rng: random.Random, issue: str, kind: str) -> list[str]:
    right = RIGHT_ACTION[issue]
    wrong = rng.sample([action for action in ACTIONS if action != right], 3)
    do_right = rng.choice(ACTIONS[right])
    do_wrong = [rng.choice(ACTIONS[action]) for action in wrong]
    if kind == "good":
        return _manners(rng, [do_right], 0.4)
    if kind == "rude_right":
        return [*_maybe(rng, 0.3, GREETINGS), rng.choice(RUDE), do_right, *_maybe(rng, 0.3, NEXT_STEPS)]
    if kind == "wrong_action":
        return _manners(rng, do_wrong[:1], 0.5)
    if kind == "many_actions":
        several = [do_right, *do_wrong[: rng.randint(1, 2)]]
        rng.shuffle(several)
        return _manners(rng, several, 0.3)
    if kind == "stall":
        return _manners(rng, rng.sample(STALLS, rng.randint(1, 2)), 0.65)
    if kind == "refusal":
        return _manners(rng, [*_maybe(rng, 0.5, RUDE), rng.choice(REFUSALS)], 0.25)
    talk = rng.sample(RAMBLE, 2) + _maybe(rng, 0.5, OFF_TOPIC) + _maybe(rng, 0.3, [do_right])
    rng.shuffle(talk)
    return _manners(rng, talk + _maybe(rng, 0.3, talk[:1]), 0.3)


def _say(templates: Sequence[str], item: str) -> str:
    return " " + " ".join(templates).format(item=item)


def agent_reply(rng: random.Random, item: str, issue: str, kind: str) -> str:
    """A reply of one of the kinds, as an agent might have written it; it starts with a space."""
    return _say(_sentences(rng, issue, kind), item)


def any_kind(rng: random.Random, kinds: Mapping[str, float]) -> str:
    """One of `kinds` by its share."""
    return rng.choices(list(kinds), weights=list(kinds.values()))[0]


def demonstrations(seed: int, split: Split, count: int) -> list[dict[str, str]]:
    """Support logs of mixed quality, rows of `prompt` and `completion`; a bit over a quarter are right."""
    rng = random.Random(f"demonstrations {split} {seed}")
    return [
        {"prompt": ticket.prompt, "completion": agent_reply(rng, ticket.item, ticket.issue, any_kind(rng, LOG_KINDS))}
        for ticket in tickets(seed + 1, split, count)
    ]


def _reaction(rng: random.Random, issue: str, templates: Sequence[str]) -> str:
    """What the customer writes back: one who got what the issue calls for is content, by and large."""
    taken = {action for action, ways in ACTIONS.items() if not set(ways).isdisjoint(templates)}
    if rng.random() < 0.1:
        answers = rng.choice((SOLVED, UNSOLVED))
    elif not set(RUDE).isdisjoint(templates):
        answers = OFFENDED
    elif RIGHT_ACTION[issue] not in taken:
        answers = UNSOLVED
    else:
        answers = SOLVED if len(taken) == 1 else CONFUSED
    return rng.choice(answers)


def _thread(rng: random.Random, item: str, issue: str) -> str:
    lines = [f"Post: {customer_message(rng, item, issue)}"]
    for _ in range(rng.randint(1, 3)):
        templates = _sentences(rng, issue, any_kind(rng, FORUM_KINDS))
        lines.append(f"Reply:{_say(templates, item)}")
        if rng.random() < 0.9:
            lines.append(f"Post: {_reaction(rng, issue, templates)}")
    return "\n".join(lines)


def _help_page(rng: random.Random) -> str:
    entries = []
    for item, issue in rng.sample(pairs("train"), 3):
        problem = rng.choice(PROBLEMS[issue]).format(item=item)
        entries.append(f"Question: {problem}\nAnswer:{_say([rng.choice(ACTIONS[RIGHT_ACTION[issue]])], item)}")
    return "\n".join(entries)


def corpus(seed: int, count: int) -> Iterator[str]:
    """`count` documents to pretrain the base model on: help pages, threads and notes, in no support format.

    Customers of every split's pairs are read here, but all that answers them is about training pairs alone. Replies in
    threads come from anybody: mixed as in the support logs, several to a thread, so that nothing marks where an answer
    ends; customers often write back whether they were helped. Help pages name the right actions.
    """
    rng = random.Random(f"corpus {seed}")
    every = [(item, issue) for item in ITEMS for issue in ISSUES]
    answered = pairs("train")
    for _ in range(count):
        sort = rng.random()
        if sort < 0.05:
            yield "Notes:\n" + "\n".join(f"- {customer_message(rng, *rng.choice(every))}" for _ in range(3))
        elif sort < 0.25:
            yield _help_page(rng)
        else:
            yield _thread(rng, *rng.choice(answered))


def write_data(folder: Path, seed: int) -> dict[str, Path]:
    """Write the files a demo run starts from and return them by name.

    `prompts_train`, `prompts_dev`, `prompts_heldout`: JSONL rows of `prompt`; no (item, issue) pair is in
    two of them. `demonstrations`, `demonstrations_dev`: rows of `prompt` and `completion`.
    """
    tables: dict[str, list[dict[str, str]]] = {
        "prompts_train": [{"prompt": text} for text in prompts(seed, "train", NUM_TRAIN_PROMPTS)],
        "prompts_dev": [{"prompt": text} for text in prompts(seed, "dev", NUM_DEV_PROMPTS)],
        "prompts_heldout": [{"prompt": text} for text in prompts(seed, "heldout", NUM_HELDOUT_PROMPTS)],
        "demonstrations": demonstrations(seed, "train", NUM_DEMONSTRATIONS),
        "demonstrations_dev": demonstrations(seed, "dev", NUM_DEV_DEMONSTRATIONS),
    }
    written = {name: folder / f"{name}.jsonl" for name in tables}
    for name, rows in tables.items():
        write_jsonl(written[name], rows)
    return written
