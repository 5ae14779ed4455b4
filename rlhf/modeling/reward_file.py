"""What lies beside a reward model's weights, in `reward.json`: how its outputs become one score."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rlhf.errors import UserError

REWARD_FILE = "reward.json"

Combine = Literal["mean", "worst", "mean_minus_std"]
Offset = float | list[float]
"""What is taken from the scores: the same of every member's, or a number for each of M members."""

COMBINE: tuple[Combine, ...] = get_args(Combine)


@dataclass(frozen=True)
class RewardFile:
    """What `reward.json` says; one that is not there says what the defaults say.

    Attributes:
        score_offset: is taken from the scores; an ensemble may have one for each of its M members.
        max_length: tokens of the longest text that is read whole; None for what the context allows.
        combine: how the outputs of an ensemble make one score; None for a model of one output.
        std_coef: standard deviations that `mean_minus_std` takes off the mean.
    """

    score_offset: Offset = 0.0
    max_length: int | None = None
    combine: Combine | None = None
    std_coef: float = 1.0

    def check(self, num_outputs: int, name: str) -> None:
        """Raise UserError where the file is not that of a model with so many outputs, which errors call `name`."""
        if self.combine is None and num_outputs != 1:
            raise UserError(
                f"{name}: has {num_outputs} labels; a reward model has one score, and the {REWARD_FILE} of an ensemble "
                f"of {num_outputs} says how they are combined ({', '.join(COMBINE)})"
            )
        if self.combine is not None and num_outputs < 2:
            raise UserError(
                f"{name}: its {REWARD_FILE} has combine = {self.combine!r}, and an ensemble has two or more members; "
                f"this model has {num_outputs}: take `combine` out"
            )
        if isinstance(self.score_offset, list) and (self.combine is None or len(self.score_offset) != num_outputs):
            raise UserError(
                f"{name}: its {REWARD_FILE} has {len(self.score_offset)} offsets (score_offset) for a model of "
                f"{num_outputs} {'output' if num_outputs == 1 else 'outputs'}; give one number, or one for each"
            )


def read_reward_file(folder: Path) -> RewardFile:
    """The `reward.json` of a model's folder; the defaults where there is none.

    Raises:
        UserError: it is not JSON, or a value is not what stands under its key.
    """
    path = folder / REWARD_FILE
    if not path.is_file():
        return RewardFile()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds {found!r:.40}; expected an object with score_offset and max_length")
    offset, length, combine = found.get("score_offset", 0.0), found.get("max_length"), found.get("combine")
    coef = 1.0 if found.get("std_coef") is None else found["std_coef"]
    are_numbers = isinstance(offset, Sequence) and not isinstance(offset, str) and all(map(_is_number, offset))
    for key, fits, wanted in (
        ("score_offset", _is_number(offset) or are_numbers, "a number, or a list with one for each member"),
        ("max_length", length is None or (_is_number(length) and length > 0), "a number of tokens, or null"),
        ("combine", combine is None or combine in COMBINE, f"one of {', '.join(COMBINE)}, or null for a single model"),
        ("std_coef", _is_number(coef) and coef >= 0, "a number that is not negative"),
    ):
        if not fits:
            raise UserError(f"{path}: {key} = {found[key]!r}; expected {wanted}")
    offsets: Offset = [float(each) for each in offset] if isinstance(offset, list) else float(offset)
    return RewardFile(offsets, length, combine, float(coef))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
