"""What comes of a blind A/B: the share that prefers a model, by prompt and by annotator."""

import pytest

from labeling_app.answers import Answer
from labeling_app.results import ab_results
from labeling_app.store import NewResponse, NewTask
from rlhf.errors import UserError


def ask(store, said):
    """`said[prompt][annotator]` is the model preferred, or None for a tie."""
    users = {name: store.add_user(name).id for name in sorted({name for votes in said.values() for name in votes})}
    for prompt, votes in said.items():
        task = NewTask(prompt, [NewResponse(f"{m} on {prompt}", m) for m in ("t/m@v1", "t/n@v1")], "ab", overlap=2)
        store.add_tasks([task], "ab")
        for name, best in votes.items():
            claimed = store.claim(users[name], "ab")
            ids = {content.split()[0]: response for response, content in claimed.responses}
            tiers = [list(ids.values())] if best is None else [[ids[best]], [v for m, v in ids.items() if m != best]]
            store.submit(users[name], claimed.lease, f"{name}-{prompt}", Answer(tiers=tiers), 1000)


def test_people_s_preference_comes_back_with_its_interval_by_annotator(local):
    said = {f"p{n}": {"ann": "t/n@v1", "bob": "t/n@v1" if n < 6 else "t/m@v1"} for n in range(9)}
    said["p9"] = {"ann": None, "bob": "t/m@v1"}
    ask(local, said)
    found = ab_results(local, "ab")
    [one] = found["comparisons"]
    assert (one["preferred"], one["to"], one["num_judgements"], one["num_prompts"]) == ("t/n@v1", "t/m@v1", 20, 10)
    assert (one["win_rate"], one["num_ties"]) == (round(15.5 / 20, 4), 1)
    low, high = one["win_rate_ci"]
    assert low < 0.775 < high
    ann, bob = one["by_annotator"]["ann"], one["by_annotator"]["bob"]
    assert (ann["win_rate"], ann["num_judgements"], ann["num_ties"]) == (0.95, 10, 1)
    assert (bob["win_rate"], bob["num_ties"]) == (0.6, 0)
    # six agree, three do not, a tie and an order do by half
    assert found["agreement"] == ann["agreement_with_others"] == 0.65
    assert found["num_annotators"] == 2 and not found["simulated"]


def test_an_annotator_who_prefers_the_other_one_is_below_a_half(local):
    ask(local, {f"p{n}": {"ann": "t/m@v1", **({"bob": "t/n@v1"} if n < 2 else {})} for n in range(4)})
    [one] = ab_results(local, "ab")["comparisons"]
    assert one["preferred"] == "t/m@v1"
    assert one["by_annotator"]["bob"]["win_rate"] == 0.0
    assert one["by_annotator"]["bob"]["win_rate_ci"][0] == 0.0


def test_a_queue_without_answers_says_so(local):
    local.add_tasks([NewTask("p", [NewResponse("a", "m"), NewResponse("b", "n")], "ab")], "ab")
    with pytest.raises(UserError, match="queue ab: no answer to a blind A/B of two models yet"):
        ab_results(local, "ab")
    with pytest.raises(UserError, match="queue 'other': there is none"):
        ab_results(local, "other")
