"""What came of blind A/B tasks: how often people preferred one model to the other."""

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from labeling_app.store import Judgement


def compare_models(judgements: Iterable[Judgement]) -> list[dict[str, Any]]:
    """One entry for every two models that were compared in mode `ab`, the preferred one first.

    `win_rate` is the share of judgements that prefer it, a tie counting half, with its 95% interval, several judgements
    of one prompt counting as one piece of evidence. A task whose completions have several writers says nothing here.
    """
    by_prompt: dict[tuple[str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for judgement in judgements:
        models = {response.id: {source["model"] for source in response.sources} for response in judgement.responses}
        names = sorted(model for written in models.values() for model in written if model)
        if judgement.mode != "ab" or len(names) != 2 or names[0] == names[1]:
            continue
        best = judgement.answer.tiers[0]
        won = 0.5 if len(best) == 2 else float(names[0] in models[best[0]])
        prompt = json.dumps(judgement.prompt, sort_keys=True)
        by_prompt[names[0], names[1]][prompt].append(won)
    return [_entry(*names, prompts) for names, prompts in sorted(by_prompt.items())]


def _entry(one: str, other: str, prompts: dict[str, list[float]]) -> dict[str, Any]:
    from labeling_app.quality.intervals import share

    wins = share([sum(values) for values in prompts.values()], [len(values) for values in prompts.values()])
    assert wins.value is not None and wins.low is not None and wins.high is not None
    interval, value = (wins.low, wins.high), wins.value
    if value < 0.5:
        one, other, value, interval = other, one, 1 - value, (1 - wins.high, 1 - wins.low)
    return {
        "preferred": one,
        "to": other,
        "win_rate": round(value, 4),
        "win_rate_ci": [round(end, 4) for end in interval],
        "num_judgements": wins.num,
        "num_prompts": len(prompts),
        "num_ties": sum(values.count(0.5) for values in prompts.values()),
    }
