"""All that the candidates and the baseline write to the same prompts, one model in memory at a time."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.judges import Answers
from rlhf.evaluation.reading import Inputs
from rlhf.evaluation.statistics import Floats
from rlhf.evaluation.writing import Loaded, Progress, Written, fitting_rows, sequence_logprobs, write
from rlhf.generation import Messages
from rlhf.modeling import ModelSource, context_length, device
from rlhf.records import Prompt
from rlhf.scorers import FoundScorer, load_scorers
from rlhf.scoring import Columns, NonFiniteError, data_columns, with_token_ids


@dataclass
class Texts:
    """Row by row, N of each: what all wrote and what is known about it.

    Attributes:
        records: what they wrote to.
        written: by the candidates' names and `baseline`.
        tokens_drawn: [N] each: how many tokens were sampled to get there, by name.
        log_ratios: [N] each: log p - log p_reference of a candidate's own completions, where it is defined.
        num_overlong: prompts that were passed over since they leave no room in somebody's context.
    """

    records: list[Prompt]
    written: dict[str, Written] = field(default_factory=dict)
    tokens_drawn: dict[str, Floats] = field(default_factory=dict)
    log_ratios: dict[str, Floats] = field(default_factory=dict)
    num_overlong: int = 0

    @property
    def prompts(self) -> list[str | Messages]:
        """As models take them."""
        return [as_prompt(record) for record in self.records]

    @property
    def columns(self) -> Columns:
        """What scorers are told beside."""
        return data_columns([record.row() for record in self.records])

    def answers(self, name: str) -> Answers:
        """What one of them wrote, as judges take it."""
        written = self.written[name]
        return Answers(written.texts, with_token_ids(self.columns, written.prompt_ids, written.token_ids))

    def keep(self, rows: list[int]) -> None:
        """These rows alone."""
        self.num_overlong += len(self.records) - len(rows)
        self.records = [self.records[i] for i in rows]
        self.written = {name: written.only(rows) for name, written in self.written.items()}
        self.tokens_drawn = {name: drawn[rows] for name, drawn in self.tokens_drawn.items()}
        self.log_ratios = {name: ratios[rows] for name, ratios in self.log_ratios.items()}


def write_all(config: EvaluationConfig, inputs: Inputs, progress: Progress) -> Texts:
    """Everybody's completions of the prompts that leave room in every model, and the log-ratios of the candidates'.

    A model that several candidates draw from is loaded once; the reference comes last, to read what the others wrote.
    """
    texts = Texts(inputs.records)
    groups = _by_model(inputs)
    for position, (source, names) in enumerate(groups):
        last = position == len(groups) - 1
        with Loaded(source, config.dtype) as loaded:
            if names:
                _keep_fitting(texts, loaded, names[0], config, inputs, first=not texts.written)
            drawn = {name: _draw(texts, loaded, name, config, inputs, progress) for name in names}
            for name in (name for name in names if name in inputs.measures_kl):
                texts.log_ratios[name] = _logprobs(loaded, drawn[name], config)
            texts.written |= drawn
            if last:
                for name in texts.log_ratios:
                    texts.log_ratios[name] -= _logprobs(loaded, texts.written[name], config)
        for name in names:
            texts.tokens_drawn[name] = _tokens_drawn(drawn[name], inputs.best_of.get(name, 1))
            if name in inputs.best_of:
                chosen = _choose(texts, drawn[name], inputs.best_of[name], inputs.choosers[name], config)
                texts.written[name] = drawn[name].only(chosen)
    return texts


def seed_of(seed: int, name: str) -> int:
    """What the writer `name` draws by, of an evaluation with `seed`: each its own, in every process the same.

    With one seed for all, row and step would give two similar models the same draws, and so often the same text: a
    policy near its baseline would tie with it, while best-of-n, whose rows stand elsewhere, would not.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:4])


def as_prompt(record: Prompt) -> str | Messages:
    """Text, or a conversation as rows."""
    if isinstance(record.prompt, str):
        return record.prompt
    return [turn.model_dump(exclude_none=True) for turn in record.prompt]


def _by_model(inputs: Inputs) -> list[tuple[ModelSource, list[str]]]:
    """Each model with the names of those who write by it: the main candidate's first, the reference's last."""
    groups: dict[str, tuple[ModelSource, list[str]]] = {}
    for name, source in inputs.writers.items():
        groups.setdefault(source.ref, (source, []))[1].append(name)
    reference = inputs.reference.ref
    last = groups.pop(reference, (inputs.reference, []))
    needs_it = last[1] or inputs.measures_kl
    return [*groups.values(), *([last] if needs_it else [])]


def _keep_fitting(
    texts: Texts, loaded: Loaded, name: str, config: EvaluationConfig, inputs: Inputs, *, first: bool
) -> None:
    """Pass over the prompts that leave no room in this model, of the first one until there are `num_prompts`."""
    at_most = config.num_prompts if first else None
    max_new_tokens = config.generation.max_new_tokens
    picked = fitting_rows(loaded.model, inputs.tokenizers[name], texts.prompts, max_new_tokens, at_most)
    if first and len(picked) == at_most:  # of the rows that were looked at, those passed over on the way
        texts.records = texts.records[: picked[-1] + 1]
    texts.keep(picked)
    if not texts.records:
        who = "candidate" if name == inputs.main else name
        raise UserError(
            f"data: no prompt leaves room for generation.max_new_tokens = {max_new_tokens} in the "
            f"{who}'s context; ask for fewer new tokens or give shorter prompts"
        )


def _draw(
    texts: Texts, loaded: Loaded, name: str, config: EvaluationConfig, inputs: Inputs, progress: Progress
) -> Written:
    """What it writes: one completion of every prompt, or those that best-of-n is to choose from, side by side."""
    num = inputs.best_of.get(name, 1)
    who = "candidate" if name == inputs.main else name
    total = num * len(texts.records)
    tokenizer: PreTrainedTokenizerBase = inputs.tokenizers[name]
    tell: Callable[[int], None] = lambda done: progress(done, total, who)  # noqa: E731
    seed = seed_of(config.seed, name)
    try:
        return write(
            loaded.model, tokenizer, texts.prompts, config.generation, seed=seed, num_return=num, progress=tell
        )
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):  # torch.multinomial's words for NaN and infinity
            raise
        raise NonFiniteError(f"{loaded.source.ref}: its next-token probabilities are not finite") from error


def _choose(texts: Texts, drawn: Written, num: int, choosers: list[FoundScorer], config: EvaluationConfig) -> list[int]:
    """Of every prompt's `num` completions the row that the scorer likes most, the first of equals."""
    scorer = load_scorers(choosers, device=device(), dtype=config.dtype)
    prompts = [prompt for prompt in texts.prompts for _ in range(num)]
    columns: Columns = {key: [value for value in values for _ in range(num)] for key, values in texts.columns.items()}
    columns = with_token_ids(columns, drawn.prompt_ids, drawn.token_ids)
    scores = scorer.score(prompts, drawn.texts, columns).double().numpy().reshape(-1, num)
    return [int(row) for row in scores.argmax(1) + np.arange(len(scores)) * num]


def _tokens_drawn(drawn: Written, num: int) -> Floats:
    return np.array([len(ids) for ids in drawn.token_ids], dtype=np.float64).reshape(-1, num).sum(1)


def _logprobs(loaded: Loaded, written: Written, config: EvaluationConfig) -> Floats:
    section = config.generation
    limit, longest = context_length(loaded.model), max(map(len, written.sequences))
    if limit is not None and longest > limit:
        raise UserError(
            f"reference = {loaded.source.ref!r}: reads at most {limit} tokens, and a prompt with its completion has "
            f"{longest}; ask for fewer new tokens or give shorter prompts"
        )
    found: Floats = sequence_logprobs(
        loaded.model, written, temperature=section.temperature, batch_size=section.batch_size
    ).numpy()
    if not np.isfinite(found).all():
        raise NonFiniteError(f"{loaded.source.ref}: the log-probabilities that it gives are not finite")
    return found
