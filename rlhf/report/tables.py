"""What stands side by side in a stage's section: candidates, annotators, and what a reward model got most wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.report.findings import interval_of, is_number, listed
from rlhf.report.metrics import describe, format_value, interval_name
from rlhf.report.model import Table
from rlhf.report.readable import as_text
from rlhf.tracking import Figure, FigureSeries

MOST_WRONG = "most_wrong"
"""What the samples are called that a reward model got most wrong."""

_MAX_CHARACTERS = 1200
_UNKNOWN = "\N{EN DASH}"


def tables_of(results: Mapping[str, Any]) -> tuple[Table, ...]:
    """What of a stage's results has rows of its own."""
    found = []
    if candidates := _of_mappings(results.get("candidates")):
        found.append(_candidates(results, candidates))
    if pairs := _of_mappings(results.get("pairs")):
        found.append(_pairs(pairs))
    if sides := sides_of(results):
        found.append(_written(results, sides, candidates))
    if judges := _of_mappings(results.get("judges")):
        found.append(_judges(judges))
    if annotators := _of_mappings(results.get("annotators")):
        found.append(_annotators(annotators))
    return tuple(found)


def _of_mappings(value: Any) -> dict[str, Mapping[str, Any]]:
    return {str(k): v for k, v in value.items() if isinstance(v, Mapping)} if isinstance(value, Mapping) else {}


def _shown(values: Mapping[str, Any], key: str) -> str:
    """A value with its interval; a dash where nothing is known."""
    value = values.get(key)
    return _UNKNOWN if value is None else format_value(key, value, interval_of(values.get(f"{key}_ci")))


def _candidates(results: Mapping[str, Any], candidates: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = {
        "win_rate": "Win rate",
        "win_rate_length_controlled": "At equal length",
        "score": "Score",
        "kl": "KL (nats)",
        "tokens_sampled_per_prompt": "Tokens sampled",
    }
    columns = {key: label for key, label in columns.items() if any(key in each for each in candidates.values())}
    rows = []
    for name, each in candidates.items():
        cells = (_divergence(each) if key == "kl" else _bare(_shown(each, key), key) for key in columns)
        rows.append((name, str(each.get("model") or _UNKNOWN), *cells))
    bound = any("kl_bound" in each for each in candidates.values())
    own = [name for name, each in candidates.items() if each.get("judge_is_training_reward")]
    reading = [
        f"Each against {results.get('baseline', 'the baseline')} on the same prompts, judged by "
        f"{results.get('judge', 'the judge')}; in brackets the {interval_name(results.get('confidence'))}. A win rate "
        "of 50% is no better than the baseline, and one that falls to 50% at equal length was won by length alone. "
        "Tokens sampled are what one answer costs.",
        "For best-of-n the divergence is the usual upper bound, no measurement." if bound else "",
        f"{listed(own)} learned from this very judge or {'was' if len(own) == 1 else 'were'} chosen by it: a high "
        "win rate says little there."
        if own
        else "",
    ]
    return Table(
        "The candidates side by side",
        ("Candidate", "Model", *columns.values()),
        tuple(rows),
        " ".join(part for part in reading if part),
    )


def _bare(text: str, key: str) -> str:
    """Without the unit, which stands above."""
    unit = describe(key).unit
    return text.removesuffix(f" {unit}") if unit else text


def _divergence(each: Mapping[str, Any]) -> str:
    if is_number(each.get("kl_bound")):
        return f"at most {_bare(format_value('kl', each['kl_bound']), 'kl')}"
    if not is_number(each.get("kl")):
        return _UNKNOWN
    error = each.get("kl_se")
    shown = f" ± {_bare(format_value('kl_se', error), 'kl_se')}" if is_number(error) else ""
    return _bare(format_value("kl", each["kl"]), "kl") + shown


def sides_of(results: Mapping[str, Any]) -> list[str]:
    """What is known of candidate and baseline both, as `x_candidate` and `x_baseline`."""
    ends = [key.removesuffix("_candidate") for key in results if key.endswith("_candidate")]
    return [key for key in ends if f"{key}_baseline" in results]


def _written(results: Mapping[str, Any], sides: Sequence[str], candidates: Mapping[str, Mapping[str, Any]]) -> Table:
    """Measures as rows, models as columns; of several candidates some are known of the main one alone."""
    names = list(candidates) or ["Candidate"]
    main = next((name for name in names if candidates.get(name, {}).get("model") == results.get("candidate")), names[0])
    others = ["baseline"]
    if results.get("reference") != results.get("baseline") and any(f"{key}_reference" in results for key in sides):
        others.append("reference")
    rows = []
    for key in sides:
        own = {name: _shown(candidates.get(name, {}), key) for name in names}
        own[main] = _shown(results, f"{key}_candidate")
        cells = [*own.values(), *(_shown(results, f"{key}_{other}") for other in others)]
        rows.append((describe(key).label, *cells))
    found = [meaning for key, meaning in _MEANINGS.items() if key in sides]
    reading = "These depend on the prompts and on how many there are: they compare within this table only."
    return Table(
        "What they write",
        ("", *names, *(other.capitalize() for other in others)),
        tuple(rows),
        " ".join([*found, reading]),
    )


_MEANINGS = {
    "distinct_1": "Distinct words, pairs and triples, as a share of all of them, tell how varied the wording is.",
    "self_bleu": "Self-BLEU is how alike the answers to different prompts are; 1: all the same.",
    "repeated_4grams": "Repeated 4-grams are sequences of four words that stood in the same answer before.",
    "perplexity": "Perplexity says between how many tokens a model hesitates on held-out demonstrations.",
}


def _pairs(pairs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for one, others in pairs.items():
        for other, values in _of_mappings(others).items():
            low, high = interval_of(values.get("win_rate_ci")) or (0.0, 1.0)
            verdict = one if low > 0.5 else other if high < 0.5 else "undecided"
            rows.append((one, other, _shown(values, "win_rate"), verdict))
    return Table(
        "The candidates against each other",
        ("Candidate", "Against", "Win rate", "Preferred"),
        tuple(rows),
        "How often the first is preferred to the second, a tie counting half. Undecided: the interval holds 50%.",
    )


def _judges(judges: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = ("win_rate", "win_rate_length_controlled", "order_disagreement", "num_unjudged")
    rows = [
        (judge, name, *(_shown(each, key) for key in keys))
        for judge, values in judges.items()
        for name, each in _of_mappings(values).items()
    ]
    return Table(
        "What the other judges say",
        ("Judge", "Candidate", "Win rate", "At equal length", "Order disagreement", "Without a verdict"),
        tuple(rows),
        "The figures above are the first judge’s. Order disagreement is the share of pairs judged differently when "
        "shown the other way round.",
    )


def _annotators(annotators: Mapping[str, Mapping[str, Any]]) -> Table:
    keys = ("weight", "reliability", "num_judgements", "num_comparisons")
    return Table(
        "How far each annotator was trusted",
        ("Annotator", "Weight", "Reliability", "Judgements", "Comparisons with others"),
        tuple(
            (name, *(_shown(each, key) for key in keys))
            for name, each in sorted(annotators.items(), key=lambda item: -float(item[1].get("weight") or 0.0))
        ),
        "A judgement counts by its annotator’s weight; 1 is the mean. Reliability comes of how often others agree: 1 "
        "is never wrong, 0 is a coin, below 0 is worse than that.",
    )


def most_wrong(samples: Sequence[Mapping[str, Any]]) -> tuple[Table, ...]:
    """The pairs that a reward model got most wrong, from a run's samples; none where it has none."""
    rows = [row for row in samples if row.get("name") == MOST_WRONG and {"prompt", "chosen", "rejected"} <= row.keys()]
    if not rows:
        return ()
    cells = [
        (
            _cut(as_text(row["prompt"])),
            _with_score(row, "chosen"),
            _with_score(row, "rejected"),
            str(row.get("annotator") or _UNKNOWN),
        )
        for row in rows
    ]
    title = f"The {len(rows)} pairs that it gets most wrong" if len(rows) > 1 else "The pair that it gets most wrong"
    return (
        Table(
            title,
            ("Prompt", "Preferred by the annotator", "Preferred by the model", "Annotator"),
            tuple(cells),
            "Largest difference first; scores stand above the texts. Some may be slips of the annotator.",
            folded=True,
            texts=True,
        ),
    )


def _with_score(row: Mapping[str, Any], side: str) -> str:
    score = row.get(f"score_{side}")
    text = _cut(as_text(row[side]))
    return f"[{format_value('score', score)}]\n{text}" if is_number(score) else text


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + " […]"


_LINES = (
    ("accuracy", "the reward model"),
    ("accuracy_longest", "“longest wins”"),
    ("accuracy_judged_twice", "the model, on pairs judged twice"),
    ("agreement_people", "people among themselves, on those"),
)


def beside_reference_lines(results: Mapping[str, Any]) -> list[Figure]:
    """A reward model's accuracy beside that of the longer text and of other people; none without both."""
    found = [(key, name) for key, name in _LINES if is_number(results.get(key))]
    if not {"accuracy", "accuracy_longest"} <= {key for key, _ in found}:
        return []
    values = [float(results[key]) for key, _ in found]
    intervals = [interval_of(results.get(f"{key}_ci")) or (y, y) for (key, _), y in zip(found, values, strict=True)]
    people = (
        " What people agree on among themselves is no upper bound: the slips of two people are in it, and of one in "
        "the model’s accuracy."
        if results.get("agreement_people") is not None
        else ""
    )
    return [
        Figure(
            name="accuracy_beside",
            title="Accuracy beside its reference lines",
            description="How often the answer that people preferred gets the higher score, and how often it is simply "
            f"the longer one. Coin flips give 50%.{people}",
            kind="bars",
            x="",
            y="accuracy",
            series=(
                FigureSeries(
                    name="accuracy",
                    x=tuple(name for _, name in found),
                    y=tuple(values),
                    low=tuple(low for low, _ in intervals),
                    high=tuple(high for _, high in intervals),
                ),
            ),
        )
    ]
