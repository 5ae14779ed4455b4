"""The demo's rubric: what a good support reply is, as a number.

Simulated annotators judge by it (with noise) and the last evaluation reports by it; PPO never sees it. A
promise counts only as a whole sentence in which the agent commits to it, one reply may commit to one
action, and word pairs that the world's language does not have cost points, so lists of keywords earn
nothing.
"""

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from rlhf.demo import lexicon
from rlhf.demo.lexicon import ITEMS, RIGHT_ACTION
from rlhf.demo.world import read_ticket

MAX_WORDS = 45

_SEND = r"(?:am sending|have sent|will send|are sending|will post|have posted|have ordered)"
_COMMITMENTS: dict[str, re.Pattern[str]] = {
    "replace": re.compile(
        rf"\b(?:i|we) (?:{_SEND} (?:you )?a new ITEM|will replace the (?:broken )?ITEM|have arranged a replacement)"
    ),
    "track": re.compile(r"\bi have (?:traced the delivery|asked the carrier about|checked the delivery)"),
    "refund": re.compile(
        r"\b(?:i|we) (?:have refunded|will pay back the money|have sent the money you paid twice\b.* back)"
    ),
    "send_part": re.compile(
        rf"\b(?:i|we) {_SEND} (?:you )?the (?:missing part|part of the ITEM to you|part that is missing)"
    ),
    "return_label": re.compile(
        rf"\b(?:i|we) (?:{_SEND} (?:you )?a free return label|will pick up your return|have opened a return)"
    ),
}
_NEGATED = re.compile(r"\b(?:not|cannot|never|unable|nothing)\b")
_ITEM = re.compile(r"\b(?:" + "|".join(ITEMS) + r")\b")
_SENTENCE = re.compile(r"[^.!?]*[.!?]?")


@dataclass(frozen=True)
class Breakdown:
    """Points of a reply by criterion; `total` is the rubric's score, about -7 to +3."""

    action: float
    item: float
    courtesy: float
    next_step: float
    focus: float
    fluency: float
    ending: float

    @property
    def total(self) -> float:
        """The sum over all criteria."""
        return float(sum(astuple(self)))


def sentences(text: str) -> list[str]:
    """Sentences in lower case, each with its final mark if it has one."""
    flat = " ".join(text.lower().split())
    return [part for found in _SENTENCE.findall(flat) if (part := found.strip())]


def _normal(sentence: str) -> str:
    return _ITEM.sub("ITEM", sentence)


def _templates(*groups: Iterable[str]) -> frozenset[str]:
    return frozenset(template.lower().replace("{item}", "ITEM") for group in groups for template in group)


_TIMED = re.compile(r"within one day|by friday|two days at most|hear from me tomorrow")
_UNKIND = _templates(lexicon.RUDE)
_FILLER = _templates(lexicon.STALLS, lexicon.RAMBLE, lexicon.OFF_TOPIC)


def _word_pairs(sentence: str) -> list[tuple[str, str]]:
    words = ["<s>", *re.findall(r"\w+|[.!?]", sentence), "</s>"]
    return list(pairwise(words))


@cache
def _known_pairs() -> frozenset[tuple[str, str]]:
    spoken = _templates(
        *lexicon.ACTIONS.values(), lexicon.GREETINGS, lexicon.EMPATHY, lexicon.NEXT_STEPS, lexicon.CLOSINGS,
        lexicon.STALLS, lexicon.REFUSALS, lexicon.RUDE, lexicon.OFF_TOPIC, lexicon.RAMBLE,
    )  # fmt: skip
    return frozenset(pair for sentence in spoken for pair in _word_pairs(sentence))


def committed_actions(completion: str) -> set[str]:
    """The actions an agent commits to; a negated or incomplete sentence commits to nothing."""
    whole = [_normal(s) for s in sentences(completion) if s[-1] in ".!?" and not _NEGATED.search(s)]
    return {action for action, pattern in _COMMITMENTS.items() if any(pattern.search(s) for s in whole)}


def _action_points(right: str, committed: set[str]) -> float:
    if not committed:
        return -1.0
    if right not in committed:
        return -1.5
    return {1: 2.0, 2: 0.0}.get(len(committed), -1.5)


def rubric_breakdown(prompt: str, completion: str) -> Breakdown:
    """Judge one completion of a prompt of this world by each criterion.

    Raises:
        UserError: the prompt is not one this world writes.
    """
    ticket = read_ticket(prompt)
    said = sentences(completion)
    shapes = [_normal(sentence) for sentence in said]
    named = set(_ITEM.findall(" ".join(said)))
    words = len(completion.split())
    repeats = len(said) - len(set(said))
    filler = sum(shape in _FILLER for shape in shapes)
    unknown = sum(pair not in _known_pairs() for shape in shapes for pair in _word_pairs(shape))
    unkind = any(shape in _UNKIND for shape in shapes)
    committed = committed_actions(completion)
    return Breakdown(
        action=_action_points(RIGHT_ACTION[ticket.issue], committed),
        item=-0.5 if named - {ticket.item} else 0.5 if named else 0.0,
        courtesy=-1.0 if unkind else 0.0,
        next_step=0.5 if committed and any(_TIMED.search(shape) for shape in shapes) else 0.0,
        focus=-0.5 * (words > MAX_WORDS) - 0.5 * min(repeats, 2) - 0.5 * min(filler, 3),
        fluency=-0.25 * min(unknown, 6),
        ending=0.0 if completion.rstrip().endswith((".", "!", "?")) else -0.5,
    )


def rubric_score(prompt: str, completion: str) -> float:
    """The rubric's score of one completion, higher is better."""
    return rubric_breakdown(prompt, completion).total


def rubric_scores(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    """`rubric_score` of many completions, with the signature of a reward function."""
    return [rubric_score(prompt, completion) for prompt, completion in zip(prompts, completions, strict=True)]
