"""`rlhf eval policy`: language models write to the same held-out prompts, and judges say who did better."""

import logging
from typing import Any

from rlhf.errors import Interrupted, UserError
from rlhf.evaluation.candidates import Texts, write_all
from rlhf.evaluation.config import BASELINE, EvaluationConfig
from rlhf.evaluation.ending import finite_or_named
from rlhf.evaluation.endpoint_judge import VERDICTS
from rlhf.evaluation.frontier import frontier_of
from rlhf.evaluation.independence import judge_is_training_reward, shared_annotators, shares_judgements
from rlhf.evaluation.judging import Judged, JudgeGone, as_sample, judge_all
from rlhf.evaluation.perplexity import perplexities
from rlhf.evaluation.policy_figures import figures
from rlhf.evaluation.publishing import publish_report, published_names, rounded
from rlhf.evaluation.reading import Inputs, read
from rlhf.evaluation.summarising import by_candidate, by_pair, kl_figures, text_figures, verdict_figures
from rlhf.evaluation.writing import Progress
from rlhf.records import plain
from rlhf.registry import Registry
from rlhf.tracking import Run, write_figures
from rlhf.workspace import Workspace, report_problems

logger = logging.getLogger(__name__)

SAMPLES_SHOWN = 50
"""How many samples go to the run's samples.jsonl and to W&B; the report artefact holds all."""


def evaluate_policy(
    config: EvaluationConfig, workspace: Workspace, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Sample from all models, judge, measure, publish.

    Returns:
        The run's summary: `win_rate` of the candidate over the baseline (a tie is half a win) with `win_rate_ci`, wins,
        ties, losses, mean scores, `kl` from the reference in nats per sequence with `kl_se`, lengths in tokens,
        diversity, and whether the judge is independent; with several candidates also `candidates` and `pairs`, with
        several judges `judges`.

    Raises:
        UserError: the input is wrong; nothing has been published.
        Interrupted: a judge behind a server went away; its verdicts until then are kept.
    """
    inputs = read(config, workspace)
    frontier = frontier_of(config.checkpoints, workspace.home) if config.checkpoints else None
    with (
        workspace.run(
            "eval", config, config.tracking, data=inputs.data, models=inputs.refs, publishes=published_names(config)
        ) as run,
        finite_or_named(),
    ):
        run.rewind(run.stage, -1)  # what an interrupted attempt has logged
        report_problems(inputs.data.problems, run.folder / "set_aside.jsonl")
        texts = write_all(config, inputs, progress or (lambda done, total, what: None))
        judged = _judge(config, inputs, texts, workspace, run)
        for one in judged:
            one.figures = {name: verdict_figures(config, texts, one, name) for name in inputs.candidates}
        summary = _summary(config, inputs, texts, judged, workspace.registry)
        samples = _samples(inputs, texts, judged[0])
        drawn = figures(config, inputs, texts, judged)
        if frontier is not None:
            summary["frontier"] = frontier.summary()
            drawn.append(frontier.figure())
        run.log({f"eval/{key}": value for key, value in summary.items() if type(value) in (int, float)}, step=0)
        run.log_samples(samples[:SAMPLES_SHOWN], step=0)
        write_figures(run.folder, drawn)
        if config.output:
            summary["artefact"] = _publish(config, inputs, workspace, run, summary, samples)
        return run.finish(summary)


def _judge(config: EvaluationConfig, inputs: Inputs, texts: Texts, workspace: Workspace, run: Run) -> list[Judged]:
    """What all judges say; a judge that goes away, or Ctrl-C, costs no verdict that was given."""
    try:
        return judge_all(config, inputs, texts, run.folder)
    except JudgeGone as gone:
        if not gone.num_kept:
            raise UserError(f"judge: {gone}; it has given no verdict yet") from gone
        raise Interrupted(
            f"judge: {gone}; {gone.num_kept} verdicts are kept: go on with {workspace.how_to_go_on(run)}"
        ) from gone
    except KeyboardInterrupt:
        path = run.folder / VERDICTS
        if not path.is_file() or not path.stat().st_size:
            raise
        raise Interrupted(
            f"ended at once; all verdicts until now are kept: go on with {workspace.how_to_go_on(run)}"
        ) from None


def _summary(
    config: EvaluationConfig, inputs: Inputs, texts: Texts, judged: list[Judged], registry: Registry
) -> dict[str, Any]:
    main, first = inputs.main, judged[0]
    summary: dict[str, Any] = {
        "candidate": inputs.writers[main].ref,
        "baseline": inputs.writers[BASELINE].ref,
        "reference": inputs.reference.ref,
        "judge": first.name,
        **_independence(inputs, registry),
        **first.figures[main],
        "order_disagreement": first.disagreement[main],
        **kl_figures(texts, main),
        **text_figures("candidate", texts.written[main]),
        **text_figures(BASELINE, texts.written[BASELINE]),
        **perplexities(config, inputs),
        "num_prompts": len(texts.records),
        "num_overlong": texts.num_overlong,
        "num_set_aside": len(inputs.data.problems),
    }
    summary |= first.asked
    if len(inputs.candidates) > 1:
        summary["candidates"] = by_candidate(inputs, texts, first, registry)
        summary["pairs"] = by_pair(config, inputs, texts, first)
    if len(judged) > 1:
        summary["judges"] = {
            other.name: by_candidate(inputs, texts, other, registry, verdicts_alone=True) | other.asked
            for other in judged[1:]
        }
    return rounded(summary)


def _independence(inputs: Inputs, registry: Registry) -> dict[str, Any]:
    """How far the judge may be believed, as far as lineage tells."""
    candidate = inputs.writers[inputs.main]
    is_reward = judge_is_training_reward(candidate, inputs.judges, registry)
    annotators = shared_annotators(candidate, inputs.judges, registry)
    judgements = shares_judgements(candidate, inputs.judges, registry)
    if is_reward:
        logger.warning("the judge is a reward that the candidate was trained on, so it favours the candidate")
    elif annotators:
        logger.warning(
            "the judge and the candidate's reward have learned from the same annotators (%s): what both get wrong "
            "counts as a win",
            ", ".join(annotators),
        )
    elif judgements:
        logger.warning("the judge and the candidate's reward have learned from the same judgements")
    return {
        "judge_is_training_reward": is_reward,
        "judge_shares_annotators": None if annotators is None else bool(annotators),
        "judge_shares_judgements": judgements,
    }


def _samples(inputs: Inputs, texts: Texts, judged: Judged) -> list[dict[str, Any]]:
    """Every row, in the seeded random order in which prompts were drawn: the first few are not picked by result."""
    compared = judged.compared[inputs.main]
    others = [name for name in inputs.candidates if name != inputs.main]
    rows = []
    for i, record in enumerate(texts.records):
        row: dict[str, Any] = {
            "prompt": plain(record.prompt),
            "before": texts.written[BASELINE].texts[i],
            "after": texts.written[inputs.main].texts[i],
            "verdict": as_sample(compared.verdicts[i]),
        }
        if compared.first_scores is not None and compared.second_scores is not None:
            row |= {
                "score_before": round(float(compared.second_scores[i]), 6),
                "score_after": round(float(compared.first_scores[i]), 6),
            }
        if others:
            row["others"] = {name: texts.written[name].texts[i] for name in others}
        rows.append(row)
    return rows


def _publish(
    config: EvaluationConfig,
    inputs: Inputs,
    workspace: Workspace,
    run: Run,
    summary: dict[str, Any],
    samples: list[dict[str, Any]],
) -> str:
    registry: Registry = workspace.registry
    main = inputs.writers[inputs.main].publish(registry)
    parents = [("candidate", main), ("baseline", inputs.writers[BASELINE].publish(registry))]
    if inputs.reference is not inputs.writers[BASELINE]:
        parents.append(("reference", inputs.reference.publish(registry)))
    # a folder of this machine has a ref now, which means something elsewhere too
    refs = {role: artefact.ref for role, artefact in parents}
    summary |= {"reference": refs["baseline"], **refs}
    for name, figures_of_it in summary.get("candidates", {}).items():
        artefact = inputs.writers[name].publish(registry)
        figures_of_it["model"] = artefact.ref
        if name != inputs.main:
            parents.append(("compared", artefact))
    choosers = [scorer for found in inputs.choosers.values() for scorer in found]
    parents += [("judge", judge.source.publish(registry)) for judge in inputs.judges if judge.source]
    parents += [("chooser", chooser.source.publish(registry)) for chooser in choosers if chooser.source]
    parents = list({(role, artefact.ref): (role, artefact) for role, artefact in parents}.values())
    return publish_report(config, registry, run, "policy", parents, inputs.data, summary, samples)
