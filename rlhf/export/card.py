"""The model card: what the model is, how it was made, what was measured, how to load it, what it is not.

All of it comes from the registry: an artefact's ancestors, their metadata, and the reports that evaluated them. People
are counted, never named, and no path of this machine is written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from rlhf.export.config import Format
from rlhf.export.snippets import loading_snippet
from rlhf.modeling import ModelSource, RewardFile
from rlhf.registry import Artefact, LineageNode, Registry

KIND_TEXTS = {
    "base": "the base model",
    "dataset": "data",
    "preferences": "preferences",
    "sft": "supervised fine-tuning",
    "reward": "reward model",
    "policy": "policy",
    "report": "report",
}

POLICY_METHODS = {
    "ppo": "optimised against a reward with PPO",
    "rloo": "optimised against a reward with RLOO",
    "dpo": "optimised on preferences with DPO",
}

METRICS = {
    "sft": {
        "eval_loss": "held-out loss, nats per token",
        "perplexity": "held-out perplexity",
        "token_accuracy": "held-out token accuracy",
    },
    "reward": {
        "accuracy": "accuracy on held-out pairs",
        "accuracy_longest": "accuracy of always preferring the longer text",
    },
    "policy": {
        "accuracy": "accuracy of the implied reward on held-out pairs",
        "score_before": "mean score by the training reward before",
        "score_after": "mean score by the training reward after",
        "kl": "KL divergence from the reference, nats per sequence",
    },
}
"""What is quoted of a stage's own figures."""


@dataclass(frozen=True)
class CardModel:
    """What the card says of the weights themselves."""

    name: str
    format: Format
    scores: bool
    """Whether it is a reward model."""
    dtype: str
    num_parameters: int
    conversational: bool
    """Whether the tokenizer has a chat template."""
    reward: RewardFile = field(default_factory=RewardFile)
    """How its outputs make a score, where it is a reward model of `num_outputs`."""
    num_outputs: int = 1
    appends_eos: bool = False


def model_card(source: ModelSource, registry: Registry, model: CardModel, folder_name: str) -> str:
    """The README of an export.

    Args:
        source: the model.
        registry: where its lineage is; a model from outside has none.
        model: what was written.
        folder_name: what the folder is called in the example of how to load it.
    """
    lineage = registry.lineage(source.artefact) if source.artefact else None
    nodes = list(lineage.walk()) if lineage else []
    artefacts = [node.artefact for node in nodes]
    reports = _reports(registry, artefacts)
    parts = [
        _front_matter(source, model, artefacts),
        f"# {_plain(model.name)}\n\n{_what_it_is(source, model)}",
        "## How it was made\n\n" + _how(lineage, source),
        "## What was measured\n\n" + _measured(artefacts, reports),
        "## How to load it\n\n" + loading_snippet(model, folder_name, _base_to_load(source)),
        "## What it is not\n\n" + _limits(source, model, lineage),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(source: ModelSource, model: CardModel, artefacts: list[Artefact]) -> str:
    hub_ids = sorted({hub for artefact in artefacts if (hub := _hub_id(artefact))})
    if not hub_ids and source.hub:
        hub_ids = [source.hub[0]]
    data = sorted({str(name) for a in artefacts for name in a.metadata.get("hub_datasets", [])})
    stage = {"policy": _method(source.artefact), "sft": "sft", "reward": "reward-model"}.get(source.kind)
    front: dict[str, Any] = {
        "library_name": "transformers" if model.format == "merged" else "peft",
        "pipeline_tag": "text-classification" if model.scores else "text-generation",
        "license": "unknown",
    }
    if hub_ids:
        front["base_model"] = hub_ids[0] if len(hub_ids) == 1 else hub_ids
    if data:
        front["datasets"] = data
    front["tags"] = ["rlhf", *([stage] if stage else [])]
    return "---\n" + yaml.safe_dump(front, sort_keys=False, allow_unicode=True) + "---"


def _method(artefact: Artefact | None) -> str:
    """By which a policy was trained; those of earlier versions say nothing, and were all trained by PPO."""
    return str(artefact.metadata.get("method", "ppo")) if artefact else "ppo"


def _what_it_is(source: ModelSource, model: CardModel) -> str:
    reads = "A reward model: it reads a prompt with a completion and gives one score"
    what = reads if model.scores else "A language model"
    made = {
        "policy": f", {POLICY_METHODS[_method(source.artefact)]}",
        "sft": ", fine-tuned on texts",
        "reward": ", trained on preferences",
    }.get(source.kind, "")
    if model.format == "adapter":
        size = f"This folder holds the adapter alone: {model.num_parameters:,} parameters in {model.dtype}."
    else:
        merged = " Its adapters are merged into the weights." if source.is_adapter else ""
        size = f"{model.num_parameters:,} parameters in {model.dtype}, as safetensors.{merged}"
    return f"{what}{made}. {size}"


def _how(lineage: LineageNode | None, source: ModelSource) -> str:
    if lineage is None:
        below = f" It is an adapter on {_plain(public_name(source.base))}." if source.base else ""
        return f"It was not made here: nothing is known of where it comes from.{below}"
    intro = "Every step and what it was made from, with the first digits of the sha256 of its content:"
    return intro + "\n\n" + "\n".join(_tree(lineage))


def _tree(node: LineageNode, depth: int = 0) -> Iterator[str]:
    artefact = node.artefact
    role = f"{node.role}: " if node.role else ""
    what = KIND_TEXTS[artefact.kind]
    if artefact.kind == "policy":
        what += f", optimised with {_method(artefact).upper()}"
    facts = [f"{role}**{what}** `{artefact.ref}`", f"`{artefact.digest[:12]}`"]
    facts.append(f"{artefact.created_at:%Y-%m-%d}")
    if hub := _hub_id(artefact):
        facts.append(f"`{_plain(hub)}` of the Hugging Face Hub")
    facts += list(_rows(artefact)) + list(_judged(node))
    if node.repeated:
        facts.append("see above")
    yield "  " * depth + "- " + ", ".join(facts)
    for scorer in [] if node.repeated else published_scorers(artefact):
        named = f"function `{_plain(scorer['function'])}`" if "function" in scorer else f"`{scorer['ref']}`"
        digest = f", `{scorer['sha256'][:12]}`" if scorer.get("sha256") else ""
        yield "  " * (depth + 1) + f"- rewarded by: {named}, weight {scorer['weight']:g}{digest}"
    for child in node.children:
        yield from _tree(child, depth + 1)


def published_scorers(artefact: Artefact) -> list[dict[str, Any]]:
    """What rewarded a policy, as it may leave this machine: of a function's file, its name without the way to it."""
    found = []
    for scorer in artefact.metadata.get("scorers", []):
        function = {"function": scorer["function"].rpartition("/")[2]} if "function" in scorer else {}
        found.append({**scorer, **function})
    return found


def _rows(artefact: Artefact) -> Iterator[str]:
    train, dev = artefact.metadata.get("num_train"), artefact.metadata.get("num_dev")
    if isinstance(train, int):
        yield f"{train:,} rows" + (f" and {dev:,} held out" if dev else "")


def _judged(node: LineageNode) -> Iterator[str]:
    """How many people judged how much; a program in their place is called one."""
    who = "**simulated** annotators (a program, not people)" if node.simulated else "annotators"
    if node.annotators:
        counts = [(int(one.get("num_judgements") or 0), int(one.get("num_held_out") or 0)) for one in node.annotators]
        trained = [judged - held_out for judged, held_out in counts if judged > held_out or not held_out]
        yield f"{sum(trained):,} judgements by {len(trained)} {who}"
        held = [held_out for _, held_out in counts if held_out]
        if held:
            yield f"{sum(held):,} held-out judgements by {len(held)} {who}"
    elif node.simulated:
        yield f"judged by {who}"


def _reports(registry: Registry, artefacts: list[Artefact]) -> list[Artefact]:
    """The reports on the model or its ancestors, the newest version of each name."""
    if not artefacts:
        return []
    refs = {artefact.ref for artefact in artefacts}
    return list(
        {
            report.name: report
            for report in registry.artefacts(kind="report")
            if any(parent.role in ("candidate", "reward") and parent.ref in refs for parent in report.parents)
        }.values()
    )


def _measured(artefacts: list[Artefact], reports: list[Artefact]) -> str:
    rows = [row for artefact in artefacts for row in _own_figures(artefact)]
    rows += [row for report in reports for row in _report_figures(report)]
    if not rows:
        return "Nothing is on record. Compare it with what you use now before you rely on it."
    lines = ["| of | what | value |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{ref}` | {what} | {value} |" for ref, what, value in rows])


def _own_figures(artefact: Artefact) -> Iterator[tuple[str, str, str]]:
    metrics = artefact.metadata.get("metrics")
    if not isinstance(metrics, Mapping):
        return
    for key, what in METRICS.get(artefact.kind, {}).items():
        if isinstance(metrics.get(key), int | float):
            yield artefact.ref, what, _value(metrics, key, 0.95)


def _report_figures(report: Artefact) -> Iterator[tuple[str, str, str]]:
    metrics, parents = report.metadata.get("metrics"), {parent.role: parent.ref for parent in report.parents}
    if not isinstance(metrics, Mapping):
        return
    confidence = float(report.metadata.get("confidence", 0.95))
    if "win_rate" in metrics:
        judge, number = _plain(str(metrics.get("judge", "?"))), metrics.get("num_prompts", "?")
        what = f"win rate over `{parents.get('baseline', '?')}` on {number} held-out prompts, judge: {judge}"
        if metrics.get("judge_is_training_reward"):
            what += " (**what it was trained on**: this does not say that it is better)"
        yield parents["candidate"], what, _value(metrics, "win_rate", confidence)
        if isinstance(metrics.get("kl"), int | float):
            origin = parents.get("reference") or parents.get("baseline", "?")
            what = f"KL divergence from `{origin}`, nats per sequence"
            yield parents["candidate"], what, f"{metrics['kl']:.3g}"
    elif "accuracy" in metrics:
        number = metrics.get("num_pairs", "?")
        what = f"accuracy on {number} held-out pairs"
        yield parents["reward"], what, _value(metrics, "accuracy", confidence)
        if isinstance(metrics.get("accuracy_longest"), int | float):
            what = f"accuracy of always preferring the longer text on these {number} pairs"
            yield parents["reward"], what, f"{metrics['accuracy_longest']:.3g}"


def _value(metrics: Mapping[str, Any], key: str, confidence: float) -> str:
    interval = metrics.get(f"{key}_ci")
    shown = f"{metrics[key]:.4g}"
    if not isinstance(interval, list) or len(interval) != 2:
        return shown
    return f"{shown} ({confidence:.0%} interval {interval[0]:.3f} to {interval[1]:.3f})"


def _limits(source: ModelSource, model: CardModel, lineage: LineageNode | None) -> str:
    lines = []
    judged = [node for node in lineage.walk() if node.artefact.kind == "preferences"] if lineage else []
    if simulated := [node for node in judged if node.simulated]:
        what = "The" if len(simulated) == len(judged) else "Some of the"
        lines.append(
            f"{what} preferences behind it were made by a program that imitates annotators. Nothing here says that "
            "people would prefer what it does."
        )
    if model.scores:
        lines.append(
            "Its scores order completions of one prompt of the kind it was trained on. They are not probabilities, and "
            "they do not compare across prompts or reward models. Optimised against hard enough, every reward model "
            "can be fooled."
        )
    elif source.kind == "policy" and _method(source.artefact) == "dpo":
        lines.append(
            "It was tuned to the judgements above and to nothing else. Facts were not checked, and where the "
            "judgements err it may have learned the error."
        )
    elif source.kind == "policy":
        lines.append(
            f"It was tuned to what {_what_rewarded(lineage)} and to nothing else. Facts were not checked, and where "
            "the reward errs it may have learned the error."
        )
    lines.append(
        "Only what stands under “What was measured” was measured, on prompts like those it was trained for. "
        "It was not tested for safety, bias or the privacy of its training data."
    )
    lines.append("The licences of its base model and of its data apply; they were not examined.")
    return "\n".join(f"- {line}" for line in lines)


def _what_rewarded(lineage: LineageNode | None) -> str:
    """The reward of a policy, as far as it is on record: `the judgements above reward`, `my.py:brevity rewards`."""
    if lineage is None:
        return "its reward, of which nothing is on record here, gave high scores"
    models = [child for child in lineage.children if child.role == "reward"]
    functions = [scorer["function"] for scorer in published_scorers(lineage.artefact) if "function" in scorer]
    sources = []
    for model in models:
        learned = any(node.artefact.kind == "preferences" for node in model.walk())
        learned = learned or any(child.artefact.kind == "preferences" for child in model.children)
        sources.append(f"`{model.artefact.ref}`" + (", trained on the judgements above," if learned else ""))
    sources += [f"the function `{_plain(function)}`" for function in functions]
    if not sources:
        return "its reward, of which nothing is on record here, gave high scores"
    return f"{' and '.join(sources)} gave high scores".replace(", and", " and")


def _base_to_load(source: ModelSource) -> str | None:
    """How the base of an adapter is named: its Hub id, else its ref."""
    return public_name(source.base) if source.base else None


def public_name(source: ModelSource | None) -> str:
    """How others know a model: its Hub id, its ref, or its folder's name without the way to it."""
    if source is None:
        return "an unknown base"
    if source.hub:
        return source.hub[0]
    return source.artefact.ref if source.artefact else source.folder.name


def _hub_id(artefact: Artefact) -> str | None:
    hub = artefact.metadata.get("hub")
    return str(hub["id"]) if isinstance(hub, Mapping) and hub.get("id") else None


def _plain(text: str) -> str:
    """`text` on one line and without what Markdown or HTML would take for more than text."""
    return "".join(letter for letter in " ".join(text.split()) if letter not in "|`<>[]*\\")
