"""How likely models still find demonstrations that were held out: what training towards a reward has forgotten."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.datasets import Loaded as LoadedData
from rlhf.errors import UserError
from rlhf.evaluation.config import BASELINE, EvaluationConfig
from rlhf.evaluation.reading import Inputs
from rlhf.evaluation.statistics import Floats, bootstrap_mean
from rlhf.evaluation.writing import Loaded, Written, sequence_logprobs
from rlhf.generation import Completion, encode_prompt
from rlhf.generation.texts import Messages
from rlhf.modeling import ModelSource, context_length
from rlhf.records import Completion as Demonstration
from rlhf.records import exchange, prompt_key
from rlhf.scoring import NonFiniteError


def perplexities(config: EvaluationConfig, inputs: Inputs) -> dict[str, Any]:
    """Perplexity on the held-out demonstrations of the main candidate, the baseline and the reference.

    Returns:
        `perplexity_*` per token of the completion and its end token; `forgotten` in nats per token, how much less
        likely the candidate finds them than the reference does, with its interval over prompts; empty without data.
    """
    if inputs.sft_data is None:
        return {}
    records = _demonstrations(inputs.sft_data)
    who = {"candidate": inputs.writers[inputs.main], BASELINE: inputs.writers[BASELINE], "reference": inputs.reference}
    tokenizers = {
        "candidate": inputs.tokenizers[inputs.main],
        **{name: inputs.tokenizers[name] for name in (BASELINE, "reference")},
    }
    measured: dict[str, tuple[Floats, Floats]] = {}
    found: dict[str, Any] = {}
    for name, source in who.items():
        if source.ref not in measured:
            measured[source.ref] = _measure(source, tokenizers[name], records, config)
        nll, sizes = measured[source.ref]
        kept = np.isfinite(nll)
        found[f"perplexity_{name}"] = math.exp(nll[kept].sum() / sizes[kept].sum()) if kept.any() else None
    return {**found, **_forgotten(measured, who, tokenizers, records, config)}


def _demonstrations(data: LoadedData) -> list[Demonstration]:
    records = [record for record in data.dev or data.train if isinstance(record, Demonstration)]
    if not records:
        raise UserError("sft_data: holds no demonstration, a prompt with its completion")
    return records


def _forgotten(
    measured: dict[str, tuple[Floats, Floats]],
    who: dict[str, ModelSource],
    tokenizers: dict[str, PreTrainedTokenizerBase],
    records: Sequence[Demonstration],
    config: EvaluationConfig,
) -> dict[str, Any]:
    """Mean difference over demonstrations; None where the two have other tokens."""
    (after, sizes), (before, _) = measured[who["candidate"].ref], measured[who["reference"].ref]
    kept = np.isfinite(after) & np.isfinite(before)
    if tokenizers["candidate"].get_vocab() != tokenizers["reference"].get_vocab() or not kept.any():
        return {"forgotten": None, "num_demonstrations": int(kept.sum())}
    lost = bootstrap_mean(
        ((after - before) / np.maximum(sizes, 1))[kept],
        [prompt_key(record.prompt) for record, fits in zip(records, kept, strict=True) if fits],
        num_bootstrap=config.num_bootstrap,
        confidence=config.confidence,
        seed=config.seed,
    )
    return {"forgotten": lost.value, "forgotten_ci": lost.interval, "num_demonstrations": int(kept.sum())}


def _measure(
    source: ModelSource,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Demonstration],
    config: EvaluationConfig,
) -> tuple[Floats, Floats]:
    """-log p(completion | prompt) [N] in nats, NaN where it passes the context, and numbers of tokens [N]."""
    rows = [encode_demonstration(tokenizer, record) for record in records]
    nll = np.full(len(rows), np.nan)
    with Loaded(source, config.dtype) as loaded:
        limit = context_length(loaded.model)
        fits = [i for i, (prompt, ids) in enumerate(rows) if limit is None or len(prompt) + len(ids) <= limit]
        if fits:
            written = Written([rows[i][0] for i in fits], [Completion(i, "", rows[i][1], True) for i in fits])
            size = config.generation.batch_size
            nll[fits] = -sequence_logprobs(loaded.model, written, temperature=1.0, batch_size=size).numpy()
    if fits and not np.isfinite(nll[fits]).all():
        raise NonFiniteError(f"{source.ref}: the log-probabilities that it gives are not finite")
    return nll, np.array([len(ids) for _, ids in rows], dtype=np.float64)


def encode_demonstration(tokenizer: PreTrainedTokenizerBase, record: Demonstration) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the completion with its end, as SFT learns them."""
    prompt, text = exchange(record.prompt, record.completion)
    prompt_ids = encode_prompt(tokenizer, prompt)
    if isinstance(prompt, str):
        whole = list(tokenizer(prompt + text)["input_ids"])
        end = [] if whole[-1:] == [tokenizer.eos_token_id] else [tokenizer.eos_token_id]
        return prompt_ids, whole[len(prompt_ids) :] + end
    conversation: Messages = [*prompt, {"role": "assistant", "content": text}]
    encoded = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)
    return prompt_ids, list(encoded["input_ids"])[len(prompt_ids) :]
