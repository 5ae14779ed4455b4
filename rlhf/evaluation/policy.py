"""`rlhf eval policy`: two language models write to the same held-out prompts, and a judge says who did better."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.evaluation.config import EvaluationConfig
from rlhf.evaluation.ending import finite_or_named
from rlhf.evaluation.judges import Answers, Comparison, ScoreJudge, compare_in_both_orders
from rlhf.evaluation.publishing import publish_report, published_names, rounded
from rlhf.evaluation.reading import Inputs, judge_is_training_reward, read
from rlhf.evaluation.statistics import Floats, bootstrap_mean, distinct_n, standard_error
from rlhf.evaluation.writing import (
    Loaded,
    Progress,
    Written,
    fitting_rows,
    sequence_logprobs,
    write,
)
from rlhf.generation import Messages
from rlhf.modeling import context_length, device
from rlhf.records import Prompt, plain, prompt_key
from rlhf.registry import Registry
from rlhf.scorers import load_scorers
from rlhf.scoring import Columns, NonFiniteError, data_columns, with_token_ids
from rlhf.tracking import Run
from rlhf.workspace import Workspace, report_problems

SAMPLES_SHOWN = 50
"""How many samples go to the run's samples.jsonl and to W&B; the report artefact holds all."""


@dataclass(frozen=True)
class _Result:
    """Row by row, N of each: what both wrote and what is known about it."""

    records: list[Prompt]
    candidate: Written
    baseline: Written
    log_ratios: Floats | None
    num_overlong: int


def evaluate_policy(
    config: EvaluationConfig, workspace: Workspace, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Sample from both models, judge, measure, publish.

    Returns:
        The run's summary: `win_rate` of the candidate (a tie is half a win) with `win_rate_ci`, wins, ties, losses,
        mean scores, `kl` from the reference in nats per sequence with `kl_se`, lengths in tokens, distinct-2, and
        whether the candidate was trained on its judge.

    Raises:
        UserError: the input is wrong; nothing has been published.
    """
    inputs = read(config, workspace)
    with (
        workspace.run(
            "eval", config, config.tracking, data=inputs.data, models=inputs.refs, publishes=published_names(config)
        ) as run,
        finite_or_named(),
    ):
        run.rewind(run.stage, -1)  # what an interrupted attempt has logged
        report_problems(inputs.data.problems, run.folder / "set_aside.jsonl")
        result = _write(config, inputs, progress or (lambda done, total, what: None))
        prompts = [_prompt(record) for record in result.records]
        scorer = load_scorers(inputs.judges, device=device(), dtype=config.dtype)
        judge = ScoreJudge(scorer)
        columns = data_columns([record.row() for record in result.records])
        compared, disagreement = compare_in_both_orders(
            judge, prompts, _answers(result.candidate, columns), _answers(result.baseline, columns)
        )
        summary = rounded(
            {
                "candidate": inputs.candidate.ref,
                "baseline": inputs.baseline.ref,
                "reference": inputs.reference.ref,
                "judge": judge.name,
                "judge_is_training_reward": judge_is_training_reward(inputs, workspace.registry),
                **_verdict_figures(config, result, compared),
                "order_disagreement": disagreement,
                **_kl_figures(result),
                **_text_figures("candidate", result.candidate),
                **_text_figures("baseline", result.baseline),
                "num_prompts": len(result.records),
                "num_overlong": result.num_overlong,
                "num_set_aside": len(inputs.data.problems),
            }
        )
        samples = _samples(result, compared)
        run.log({f"eval/{key}": value for key, value in summary.items() if type(value) in (int, float)}, step=0)
        run.log_samples(samples[:SAMPLES_SHOWN], step=0)
        if config.output:
            summary["artefact"] = _publish(config, inputs, workspace, run, summary, samples)
        return run.finish(summary)


def _write(config: EvaluationConfig, inputs: Inputs, progress: Progress) -> _Result:
    """Both models' completions of the prompts that fit, and the log-ratios of the candidate's."""
    section = config.generation
    records = inputs.records
    log_ratios = None
    with Loaded(inputs.candidate, config.dtype) as loaded:
        tokenizer = inputs.tokenizers["candidate"]
        prompts = [_prompt(record) for record in records]
        picked = fitting_rows(loaded.model, tokenizer, prompts, section.max_new_tokens, config.num_prompts)
        # Of the rows that were looked at, those passed over on the way to `num_prompts`.
        num_seen = picked[-1] + 1 if len(picked) == config.num_prompts else len(records)
        num_overlong = num_seen - len(picked)
        records = _some([records[i] for i in picked], config, "candidate")
        prompts = [prompts[i] for i in picked]
        candidate = _completions(loaded, tokenizer, prompts, config, lambda n: progress(n, len(prompts), "candidate"))
        if inputs.measures_kl:
            log_ratios = _logprobs(loaded, candidate, config)
    with Loaded(inputs.baseline, config.dtype) as loaded:
        tokenizer = inputs.tokenizers["baseline"]
        fits = fitting_rows(loaded.model, tokenizer, prompts, section.max_new_tokens)
        num_overlong += len(records) - len(fits)
        records, candidate = _some([records[i] for i in fits], config, "baseline"), candidate.only(fits)
        prompts = [prompts[i] for i in fits]
        baseline = _completions(loaded, tokenizer, prompts, config, lambda n: progress(n, len(prompts), "baseline"))
        if log_ratios is not None:
            log_ratios = log_ratios[fits]
            if inputs.reference is inputs.baseline:
                log_ratios -= _logprobs(loaded, candidate, config)
    if log_ratios is not None and inputs.reference is not inputs.baseline:
        with Loaded(inputs.reference, config.dtype) as loaded:
            log_ratios -= _logprobs(loaded, candidate, config)
    return _Result(records, candidate, baseline, log_ratios, num_overlong)


def _completions(
    loaded: Loaded,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str | Messages],
    config: EvaluationConfig,
    progress: Callable[[int], None],
) -> Written:
    try:
        return write(loaded.model, tokenizer, prompts, config.generation, seed=config.seed, progress=progress)
    except RuntimeError as error:
        if "probability tensor contains" not in str(error):  # torch.multinomial's words for NaN and infinity
            raise
        raise NonFiniteError(f"{loaded.source.ref}: its next-token probabilities are not finite") from error


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


def _some(records: list[Prompt], config: EvaluationConfig, who: str) -> list[Prompt]:
    if not records:
        raise UserError(
            f"data: no prompt leaves room for generation.max_new_tokens = {config.generation.max_new_tokens} in the "
            f"{who}'s context; ask for fewer new tokens or give shorter prompts"
        )
    return records


def _verdict_figures(config: EvaluationConfig, result: _Result, compared: Comparison) -> dict[str, Any]:
    clusters = [prompt_key(record.prompt) for record in result.records]

    def mean(values: Floats) -> Any:
        return bootstrap_mean(
            values,
            clusters,
            num_bootstrap=config.num_bootstrap,
            confidence=config.confidence,
            seed=config.seed,
        )

    won = mean(compared.verdicts)
    figures: dict[str, Any] = {
        "win_rate": won.value,
        "win_rate_ci": won.interval,
        "confidence": config.confidence,
        "wins": int((compared.verdicts > 0.5).sum()),
        "ties": int((compared.verdicts == 0.5).sum()),
        "losses": int((compared.verdicts < 0.5).sum()),
    }
    for who, scores in (("candidate", compared.first_scores), ("baseline", compared.second_scores)):
        if scores is not None:
            scored = mean(scores)
            figures |= {f"score_{who}": scored.value, f"score_{who}_ci": scored.interval}
    return figures


def _kl_figures(result: _Result) -> dict[str, Any]:
    if result.log_ratios is None:
        return {"kl": None, "kl_se": None}
    clusters = [prompt_key(record.prompt) for record in result.records]
    return {"kl": float(result.log_ratios.mean()), "kl_se": standard_error(result.log_ratios, clusters)}


def _text_figures(who: str, written: Written) -> dict[str, Any]:
    return {
        f"length_{who}": float(np.mean([len(ids) for ids in written.token_ids])),
        f"distinct_2_{who}": distinct_n(written.texts, 2),
        f"ends_with_eos_{who}": float(np.mean([completion.ended for completion in written.completions])),
    }


def _samples(result: _Result, compared: Comparison) -> list[dict[str, Any]]:
    """Every row, in the seeded random order in which prompts were drawn: the first few are not picked by result."""
    rows = []
    for i, record in enumerate(result.records):
        row: dict[str, Any] = {
            "prompt": plain(record.prompt),
            "before": result.baseline.texts[i],
            "after": result.candidate.texts[i],
            "verdict": float(compared.verdicts[i]),
        }
        if compared.first_scores is not None and compared.second_scores is not None:
            row |= {
                "score_before": round(float(compared.second_scores[i]), 6),
                "score_after": round(float(compared.first_scores[i]), 6),
            }
        rows.append(row)
    return rows


def _prompt(record: Prompt) -> str | Messages:
    if isinstance(record.prompt, str):
        return record.prompt
    return [turn.model_dump(exclude_none=True) for turn in record.prompt]


def _answers(written: Written, columns: Columns) -> Answers:
    return Answers(written.texts, with_token_ids(columns, written.prompt_ids, written.token_ids))


def _publish(
    config: EvaluationConfig,
    inputs: Inputs,
    workspace: Workspace,
    run: Run,
    summary: dict[str, Any],
    samples: list[dict[str, Any]],
) -> str:
    registry: Registry = workspace.registry
    parents = [("candidate", inputs.candidate.publish(registry)), ("baseline", inputs.baseline.publish(registry))]
    if inputs.reference is not inputs.baseline:
        parents.append(("reference", inputs.reference.publish(registry)))
    # a folder of this machine has a ref now, which means something elsewhere too
    refs = {role: artefact.ref for role, artefact in parents}
    summary |= {"reference": refs["baseline"], **refs}
    parents += [("judge", judge.source.publish(registry)) for judge in inputs.judges if judge.source]
    return publish_report(config, registry, run, "policy", parents, inputs.data, summary, samples)
