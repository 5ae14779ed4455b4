"""Who is trusted how far, and what each member of an ensemble learns from."""

import random
from types import SimpleNamespace

import numpy as np
import pytest

from reward.config import EnsembleSection, LossSection
from reward.preparing import learnable
from reward.weights import annotator_weights, members_of
from rlhf.errors import UserError
from rlhf.records import Preference, Ranking, Rating, prompt_key

NOISE = {"ana": 0.4, "ben": 0.5, "cem": 0.6, "dee": 0.7}
SIX = [*NOISE, "careless", "malicious"]


def opinions(seed, num_tasks=200, overlap=2, num_texts=4):
    """What six people see in the completions of each task: (annotator, prompt, worth of each completion to them)."""
    rng = np.random.default_rng(seed)
    for task in range(num_tasks):
        worth = rng.normal(size=num_texts)
        for name in rng.choice(SIX, size=overlap, replace=False).tolist():
            noise = rng.normal(size=num_texts)
            if name == "careless":
                yield name, f"task {task}", noise
            elif name == "malicious":
                yield name, f"task {task}", -(worth + 0.5 * noise)
            else:
                yield name, f"task {task}", worth + NOISE[name] * noise


def texts(number):
    return [f"text {at}" for at in range(number)]


def rankings(seed, **values):
    return [
        Ranking(
            prompt=prompt,
            completions=texts(len(seen)),
            tiers=[[int(at)] for at in np.argsort(-seen)],
            annotator=name,
        )
        for name, prompt, seen in opinions(seed, **values)
    ]


def pairs(seed, **values):
    return [
        Preference(prompt=prompt, chosen=f"text {int(np.argmax(seen))}", rejected=f"text {int(np.argmin(seen))}",
                   annotator=name)
        for name, prompt, seen in opinions(seed, num_texts=2, **values)
    ]  # fmt: skip


def ratings(seed, **values):
    """Everybody has a scale of their own."""
    scale = {name: (1 + at, 1 + at / 3) for at, name in enumerate(SIX)}
    return [
        Rating(prompt=prompt, completion=text, rating=scale[name][0] + scale[name][1] * value, annotator=name)
        for name, prompt, seen in opinions(seed, **values)
        for text, value in zip(texts(len(seen)), seen.tolist(), strict=True)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("of", "num_tasks"), [(rankings, 200), (pairs, 600), (ratings, 200)])
def test_a_careless_and_a_malicious_annotator_among_six_are_found(seed, of, num_tasks):
    found = annotator_weights(of(seed, num_tasks=num_tasks))
    weights = {name: one.weight for name, one in found.items()}
    assert weights["malicious"] == 0.0 and found["malicious"].reliability < -0.2
    assert weights["careless"] == 0.0
    assert all(0.9 < weights[name] < 2.2 for name in NOISE)


def test_the_mean_over_judgements_is_one():
    found = annotator_weights(rankings(1)).values()
    total = sum(one.num_judgements for one in found)
    assert sum(one.weight * one.num_judgements for one in found) / total == pytest.approx(1)


def test_who_has_said_little_is_taken_to_be_as_the_others_are():
    records = rankings(2)
    careless = [record for record in records if record.annotator == "careless"]
    few = [record for record in records if record.annotator != "careless"] + careless[:1]
    assert 0.3 < annotator_weights(few)["careless"].weight < 1.6
    assert annotator_weights(records)["careless"].weight < 0.1


def test_agreement_that_chance_gives_is_worth_nothing():
    """Half of the answers of two people who throw a coin agree."""
    rng = random.Random(3)
    records = [record for record in pairs(3, num_tasks=400) if record.annotator in NOISE]
    prompts = sorted({record.prompt for record in records})
    for name in ("heads", "tails"):
        for prompt in prompts:
            first, second = rng.sample(["text 0", "text 1"], 2)
            records.append(Preference(prompt=prompt, chosen=first, rejected=second, annotator=name))
    found = annotator_weights(records)
    assert [found[name].weight for name in ("heads", "tails")] == [0.0, 0.0]


def test_the_same_row_twice_is_one_answer():
    records = rankings(4)
    assert annotator_weights([*records, *records]) == annotator_weights(records)


def test_without_two_who_judged_the_same_nothing_can_be_told():
    records = [
        Preference(prompt="p", chosen="a", rejected="b", annotator="ana"),
        Preference(prompt="q", chosen="a", rejected="b", annotator="ben"),
        Preference(prompt="q", chosen="a", rejected="b"),
    ]
    with pytest.raises(UserError, match="no two of 2 named annotators judged the same completions"):
        annotator_weights(records)


def test_two_who_contradict_each_other_throughout_weigh_the_same():
    records = [
        Preference(prompt=f"p{number}", chosen=better, rejected=worse, annotator=name)
        for number in range(400)
        for name, (better, worse) in {"ana": "ab", "ben": "ba"}.items()
    ]
    assert [one.weight for one in annotator_weights(records).values()] == pytest.approx([1.0, 1.0])


def test_every_judgement_counts_as_its_annotators_weight():
    weigh = members_of(None, [], {"ana": 1.5, "ben": 0.0}, seed=0)
    assert [weigh("p", name) for name in ("ana", "ben", "cem", None)] == [[1.5], [0.0], [1.0], [1.0]]
    same_for_all = members_of(EnsembleSection(num_members=3, resample="none"), [], {"ana": 1.5}, seed=0)
    assert same_for_all("p", "ana") == [1.5, 1.5, 1.5]


def test_a_member_draws_as_many_annotators_as_there_are_and_none_of_weight_zero():
    ensemble = EnsembleSection(num_members=50, resample="annotators")
    weigh = members_of(ensemble, rankings(5), {"malicious": 0.0}, seed=1)
    drawn = np.array([weigh("p", name) for name in SIX])
    assert drawn.shape == (6, 50)
    assert drawn.sum(0).tolist() == [5.0] * 50
    assert set(drawn[5]) == {0.0} and {0.0, 1.0, 2.0} <= set(drawn[0])
    assert members_of(ensemble, rankings(5), {"malicious": 0.0}, seed=1)("p", "ana") == weigh("p", "ana")
    assert weigh("p", None) == [1.0] * 50


def test_a_member_draws_as_many_prompts_as_there_are():
    records = rankings(6, num_tasks=40)
    weigh = members_of(EnsembleSection(num_members=8), records, {}, seed=2)
    keys = sorted({prompt_key(record.prompt) for record in records})
    drawn = np.array([weigh(key, "ana") for key in keys])
    assert drawn.sum(0).tolist() == [40.0] * 8
    assert len({tuple(member) for member in drawn.T}) == 8


def test_annotators_without_names_cannot_be_drawn():
    records = [Preference(prompt="p", chosen="a", rejected="b", annotator=name) for name in ("ana", None)]
    with pytest.raises(
        UserError, match=r"not two annotators with a name to draw from \(only ana\); set it to 'prompts'"
    ):
        members_of(EnsembleSection(resample="annotators"), records, {}, seed=0)


def test_a_held_out_judgement_counts_by_its_annotator_whatever_a_member_has_drawn():
    config = SimpleNamespace(
        loss=LossSection(weights="reliability"), ensemble=EnsembleSection(num_members=3, resample="annotators"), seed=0
    )
    found = learnable(config, SimpleNamespace(train=rankings(7), dev=rankings(8, num_tasks=10)))
    trusted = found.annotators["ana"].weight
    assert found.weigh_dev("task 0", "ana") == [trusted] * 3 != found.weigh("task 0", "ana")
    assert (found.weigh_dev("task 0", "malicious"), found.weigh_dev("task 0", None)) == ([0.0] * 3, [1.0] * 3)
