"""From prompts to a scored rollout: sample, measure log-probs and values, ask the scorers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase

from rlhf.generation import NonFiniteProbabilities, SampledTokens, VLLMSampler, decode_completion, sample_tokens
from rlhf.modeling import ModelWork, models_side_by_side, weights_held
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.critic import SharedCritic, put_on_scale
from rlhf.ppo.forward import completion_logprobs, is_reentrant
from rlhf.ppo.losses import RewardAt
from rlhf.ppo.models import PolicyAndValue
from rlhf.ppo.reference import Reference
from rlhf.ppo.rollout import Prompts, Rollout, TokenBatch, assemble, blank, token_batches
from rlhf.ppo.shaping import ScoreShaper, penalise
from rlhf.scoring import Columns, NonFiniteError, RewardModelScorer, WeightedScorer, require_finite, with_token_ids


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn and measured."""

    max_new_tokens: int
    temperature: float
    tokenizer: PreTrainedTokenizerBase
    """The policy's."""
    stop_ids: tuple[int, ...]
    """Tokens that end a completion."""
    stop_strings: tuple[str, ...]
    """Texts that end a completion. Without these and without stop tokens, all completions are of one length."""
    eos_ids: tuple[int, ...]
    """Tokens whose presence makes a completion a finished one."""
    pad_id: int
    batch_size: int
    """Rows in one gradient-free pass."""
    reward_at: RewardAt
    engine: VLLMSampler | None = None
    """What draws the policy's completions instead of the policy itself."""


def sample_completions(
    model: nn.Module, prompts: Prompts, sampling: Sampling, temperature: float | None = None
) -> SampledTokens:
    """A completion of each prompt by `model`, at another temperature than training's if one is given (0 is greedy).

    An engine draws what training learns from: the policy's completions at training's temperature.

    Raises:
        NonFiniteError: there was no distribution to draw from.
    """
    engine = sampling.engine
    try:
        if engine is not None and model is engine.model and temperature is None:
            return engine.sample(prompts.ids)
        return sample_tokens(
            model,
            prompts.ids,
            max_new_tokens=sampling.max_new_tokens,
            temperature=sampling.temperature if temperature is None else temperature,
            stop_ids=sampling.stop_ids,
            stop_strings=sampling.stop_strings,
            tokenizer=sampling.tokenizer,
            pad_id=sampling.pad_id,
            batch_size=sampling.batch_size,
        )
    except NonFiniteProbabilities as error:
        raise NonFiniteError("rollout: the policy's next-token probabilities are not finite") from error


@torch.no_grad()
def collect(model: PolicyAndValue, reference: Reference, prompts: Prompts, sampling: Sampling) -> Rollout:
    """Sample a completion for each prompt, and measure it under policy, reference and critic.

    `model` is in eval mode and on the device of the result. Raises NonFiniteError naming what was not finite.
    """
    tokens = sample_completions(model.policy, prompts, sampling)
    if sampling.reward_at == "trl":
        tokens = _padded(tokens, sampling)
    logprobs, ref_logprobs, values = blank(tokens), blank(tokens), blank(tokens)
    on_cpu = tokens.ids.device.type == "cpu"
    size = sampling.batch_size
    if on_cpu and reference.model is not None:  # where all is one base, everything is done in turn anyway
        size = min(size, -(-len(prompts.ids) // torch.get_num_threads()))
    rows = range(len(prompts.ids))
    batches = list(token_batches(prompts, tokens, rows, size, sampling.pad_id, sampling.reward_at))
    states: list[Tensor | None] = [None] * len(batches)
    is_shared = isinstance(model.value_model, SharedCritic)  # whose values come of the policy's own pass

    def measure_policy(batch: TokenBatch) -> None:
        if is_shared:
            logprobs[batch.cells], _, values[batch.cells] = model(batch, sampling.temperature)
        else:
            logprobs[batch.cells] = completion_logprobs(model.policy, batch, sampling.temperature)

    def measure_reference(batch: TokenBatch) -> None:
        with reference.active() as policy:
            ref_logprobs[batch.cells] = completion_logprobs(policy, batch, sampling.temperature)

    def measure_critic(batch: TokenBatch, number: int) -> None:
        states[number] = model.critic_states(batch)
        values[batch.cells] = model.values(replace(batch, critic_states=states[number]))

    works = [
        ModelWork(model.policy, [partial(measure_policy, b) for b in batches], is_reentrant(model.policy, batches)),
        ModelWork(
            reference.host,
            [partial(measure_reference, b) for b in batches],
            reference.model is not None and is_reentrant(reference.model, batches),
        ),
        ModelWork(
            model.critic_host,
            [] if is_shared else [partial(measure_critic, b, i) for i, b in enumerate(batches)],
            not isinstance(model.critic_host, PeftModel) and is_reentrant(model.critic_host, batches),
        ),
    ]
    with weights_held():
        if on_cpu:
            models_side_by_side(works)
        else:
            for work in works:
                for step in work.steps:
                    step()
    read = _laid_out(states, batches, tokens)
    rollout = assemble(prompts, tokens, sampling.eos_ids, sampling.reward_at, logprobs, ref_logprobs, values, read)
    for source, cells_ in (
        ("the policy's log-probs", rollout.logprobs),
        ("the reference's log-probs", rollout.ref_logprobs),
        ("the critic's values", rollout.values),
    ):
        if not bool(torch.isfinite(cells_).all()):
            bad = int((~torch.isfinite(cells_)).any(1).sum())
            raise NonFiniteError(f"rollout: {source} are not finite in {bad} of {len(cells_)} completions")
    return rollout


def _laid_out(states: Sequence[Tensor | None], batches: Sequence[TokenBatch], tokens: SampledTokens) -> Tensor | None:
    """What a head critic read for each batch, [n, d], as [B, T, d]; None where there is no such critic."""
    whole: Tensor | None = None
    for read, batch in zip(states, batches, strict=True):
        if read is not None:
            whole = read.new_zeros(*tokens.ids.shape, read.size(1)) if whole is None else whole
            row, column = batch.asked.nonzero(as_tuple=True)
            whole[batch.rows[row], column] = read
    return whole


def _padded(tokens: SampledTokens, sampling: Sampling) -> SampledTokens:
    """`tokens` with T = `max_new_tokens`: where T is the longest row, it would say which rows have room past EOS."""
    more = (0, sampling.max_new_tokens - tokens.ids.size(1))
    logprobs = None if tokens.logprobs is None else pad(tokens.logprobs, more)
    return SampledTokens(pad(tokens.ids, more, value=sampling.pad_id), pad(tokens.mask, more), tokens.ended, logprobs)


def score(
    rollout: Rollout, scorer: WeightedScorer, args: PPOConfig, sampling: Sampling
) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores [B] on the rollout's device with the penalties taken off, and each scorer's own [B] by name."""
    completions, columns = as_text(rollout.prompts, rollout.completion_ids, rollout.mask, sampling)
    each = scorer.score_each(rollout.prompts.texts, completions, columns)
    for name, values in each.items():
        require_finite(values, name)
    scores = scorer.combine(each).to(rollout.mask.device)
    return penalise(scores, rollout.lengths, rollout.ended, args), each


def shape(rollout: Rollout, scores: Tensor, shaper: ScoreShaper, critic: nn.Module) -> tuple[Tensor, Rollout]:
    """Scores [B] as they are paid, and the rollout.

    Where these scores are the first to be scaled, a critic that began as a reward model is put on their scale, and so
    are its values.
    """
    had_scale = shaper.has_scale
    paid = shaper(scores)
    moments = shaper.moments
    if shaper.has_scale and not had_scale and put_on_scale(critic, moments.mean, moments.std):
        rollout = replace(rollout, values=moments.scale(rollout.values).masked_fill(~rollout.value_mask, 0.0))
    return paid, rollout


def as_text(prompts: Prompts, completion_ids: Tensor, mask: Tensor, sampling: Sampling) -> tuple[list[str], Columns]:
    """Completions [B, T] as scorers take them: B texts, and the columns of the data set with both sides' token ids.

    A stop string is left out of the text, as an EOS token is, and so is what its last token brought behind it.
    """
    completions = [ids[real].tolist() for ids, real in zip(completion_ids.cpu(), mask.cpu(), strict=True)]
    prompt_ids = [ids.tolist() for ids in prompts.ids]
    texts = [decode_completion(sampling.tokenizer, p, c) for p, c in zip(prompt_ids, completions, strict=True)]
    texts = [text_before(text, sampling.stop_strings) for text in texts]
    return texts, with_token_ids(prompts.columns, prompt_ids, completions)


def text_before(text: str, stop_strings: Sequence[str]) -> str:
    """`text` up to the first stop string in it; all of it without one."""
    places = [place for string in stop_strings if (place := text.find(string)) >= 0]
    return text[: min(places)] if places else text


class TokenRewardScorer(RewardModelScorer):
    """A reward model that reads the policy's own token ids, as TRL's PPO has it; no text is made on the way."""

    def score(self, prompts: Sequence[object], completions: Sequence[str], columns: Columns | None = None) -> Tensor:
        """Scores [B] of `columns["prompt_ids"]` followed by `columns["completion_ids"]`."""
        assert columns is not None
        return self.score_ids([p + c for p, c in zip(columns["prompt_ids"], columns["completion_ids"], strict=True)])
