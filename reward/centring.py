"""Scores are shifted so that what the model that PPO starts from writes averages 0.

Comparisons say nothing of the constant that may be added to all scores. Of a single model it does not matter; the
members of an ensemble can be held against each other only where each has the same one.
"""

import itertools
import logging
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch

from reward.config import CentreSection, RewardStageConfig
from reward.judgements import Group
from rlhf.config import ModelSection
from rlhf.datasets import Loaded
from rlhf.errors import UserError
from rlhf.generation import Messages, encode_prompt, sample
from rlhf.modeling import ModelSource, can_write, device, find_model, load_causal_lm, load_tokenizer, max_positions
from rlhf.records import exchange, plain, prompt_key
from rlhf.scorers import Dtype
from rlhf.scoring import RewardModelScorer
from rlhf.workspace import Workspace

logger = logging.getLogger(__name__)

NUM_JUDGED_TEXTS = 256
"""How many of the completions trained on stand in for those of a model, where no model is named and none can write."""


@dataclass(frozen=True)
class Centre:
    """The model whose completions of `prompts` are to score 0 on average."""

    source: ModelSource
    section: CentreSection
    prompts: list[str | Messages]


def find_centre(config: RewardStageConfig, source: ModelSource, workspace: Workspace, data: Loaded) -> Centre | None:
    """What the scores are centred on, with the first training prompts that leave it room, each prompt once."""
    section = config.centre
    if section:
        source = find_model(section.ref, workspace.registry, kinds=("base", "sft", "policy"), key="centre.ref")
        if not can_write(source):
            raise UserError(f"centre.ref = {section.ref!r}: is no language model, so it has no completions to score")
    elif can_write(source):
        section = CentreSection(ref=source.ref)
    else:
        instead = "scores are left as they are"
        if config.ensemble:
            instead = "each member is shifted so that its scores of completions trained on average 0"
        logger.warning("%s cannot write, and `centre` is not set: %s", source.ref, instead)
        return None
    tokenizer = load_tokenizer(source)
    by_key = {prompt_key(record.prompt): record.prompt for record in data.train}  # type: ignore[attr-defined]
    limit = (max_positions(source) or math.inf) - section.max_new_tokens
    every = (exchange(prompt, "")[0] for prompt in by_key.values())
    fitting = (prompt for prompt in every if len(encode_prompt(tokenizer, prompt)) <= limit)
    prompts = list(itertools.islice(fitting, section.num_prompts))
    if not prompts:
        raise UserError(
            f"centre.max_new_tokens = {section.max_new_tokens}: no prompt leaves {source.ref} room for that; lower it"
        )
    return Centre(source, section, prompts)


def mean_scores(scorer: RewardModelScorer, centre: Centre, *, dtype: Dtype, seed: int) -> list[float]:
    """The mean [M] of each member's scores of completions that the model of `centre` writes, offsets not taken off."""
    held = ModelSection(ref=centre.source.ref, dtype=dtype)
    completions = sample(
        load_causal_lm(centre.source, held).to(device()),
        load_tokenizer(centre.source),
        centre.prompts,
        max_new_tokens=centre.section.max_new_tokens,
        temperature=centre.section.temperature,
        seed=seed,
    )
    prompts = [centre.prompts[completion.prompt_index] for completion in completions]
    return _means(scorer, prompts, [completion.text for completion in completions])


def mean_scores_of_judged(scorer: RewardModelScorer, groups: Iterable[Group], *, seed: int) -> list[float]:
    """The same [M] of completions that were judged: of `NUM_JUDGED_TEXTS` different ones of `groups`, drawn by lot."""
    judged = {
        (prompt_key(prompt), plain(completion)): exchange(prompt, completion)
        for group in groups
        for prompt, completion in group.texts
    }
    texts = list(judged.values())
    drawn = [texts[at] for at in np.random.default_rng(seed).permutation(len(texts))[:NUM_JUDGED_TEXTS]]
    return _means(scorer, [before for before, _ in drawn], [text for _, text in drawn])


def _means(scorer: RewardModelScorer, prompts: list[str | Messages], texts: list[str]) -> list[float]:
    scores = scorer.score_members(prompts, texts).double() + torch.as_tensor(scorer.offset, dtype=torch.float64)
    return cast(list[float], scores.mean(0).tolist())
