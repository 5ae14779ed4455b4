import pytest

from rlhf.demo import lexicon
from rlhf.demo.rubric import committed_actions, rubric_breakdown, rubric_score, rubric_scores
from rlhf.errors import UserError

BROKEN_KETTLE = "Customer: Hello. My kettle arrived broken. Can you help?\nAgent:"
CURT = " We will replace the broken kettle at no cost."


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        # 2 right action + 0.5 item + 0.5 next step; greeting, pity and closing cost and earn nothing
        (
            " Hello. I am very sorry to hear this. I am sending you a new kettle for the broken one."
            " It will be done by Friday. Kind regards.",
            3.0,
        ),
        # 2 + 0.5
        (" I am sending you a new kettle for the broken one.", 2.5),
        # the same for another product: 2 - 0.5
        (" I am sending you a new radio for the broken one.", 1.5),
        # 2 + 0.5 - 1 rude
        (" This is your own fault. I am sending you a new kettle for the broken one.", 1.5),
        # a wrong action: -1.5 + 0.5
        (" I have opened a return for the kettle.", -1.0),
        # the right one and a wrong one: 0 + 0.5
        (" I have opened a return for the kettle. I am sending you a new kettle for the broken one.", 0.5),
        # nothing done: -1 + 0.5 item; thanks and a date for nothing earn nothing
        (
            " Hello. Thank you for telling us about the kettle. It will be done by Friday. Kind regards.",
            -0.5,
        ),
        # -1 + 0.5 item - 0.5 filler
        (" We value your opinion about the kettle.", -1.0),
        # said twice: 2 + 0.5 - 0.5
        (" I am sending you a new kettle for the broken one. I am sending you a new kettle for the broken one.", 2.0),
        # an empty reply: -1 - 0.5 for no ending
        ("", -1.5),
    ],
)
def test_scores_worked_by_hand(completion, score):
    assert rubric_score(BROKEN_KETTLE, completion) == score


def test_a_curt_right_action_beats_the_politest_reply_that_does_nothing():
    polite = (
        " Dear customer. I am sorry about the trouble with the kettle. Thank you for writing to us."
        " You will get an email within one day. Best wishes."
    )
    assert rubric_score(BROKEN_KETTLE, CURT) >= rubric_score(BROKEN_KETTLE, polite) + 2


@pytest.mark.parametrize(
    "stuffed",
    [
        " replacement refund exchange tracking invoice label reset kettle sorry thank you friday.",
        " kettle replacement. new kettle for the broken one. sorry. hello. friday.",
        " ".join(templates[0].format(item="kettle") for templates in lexicon.ACTIONS.values()),
        " I am sending you a new kettle for the broken one" + " a new kettle for the broken one" * 12 + ".",
        " I will not replace the broken kettle at no cost.",
    ],
)
def test_stuffing_earns_less_than_the_plain_right_action(stuffed):
    assert rubric_score(BROKEN_KETTLE, stuffed) < rubric_score(BROKEN_KETTLE, CURT) - 1


def test_every_action_is_recognised_as_itself_and_nothing_else_as_an_action():
    for action, templates in lexicon.ACTIONS.items():
        for template in templates:
            assert committed_actions(template.format(item="hair dryer")) == {action}
    for talk in (
        lexicon.GREETINGS, lexicon.EMPATHY, lexicon.NEXT_STEPS, lexicon.CLOSINGS, lexicon.STALLS,
        lexicon.REFUSALS, lexicon.RUDE, lexicon.OFF_TOPIC, lexicon.RAMBLE,
    ):  # fmt: skip
        assert committed_actions(" ".join(talk).format(item="fan")) == set()


def test_a_promise_that_is_broken_off_commits_to_nothing():
    assert committed_actions("I am sending you a new kettle") == set()


def test_long_replies_lose_focus():
    long = " I am sending you a new kettle for the broken one." + " ".join([""] + list(lexicon.NEXT_STEPS) * 2)
    assert rubric_breakdown(BROKEN_KETTLE, long).focus == -1.5


def test_the_batch_form_takes_columns_it_does_not_need_and_refuses_unequal_lengths():
    assert rubric_scores([BROKEN_KETTLE], [""], completion_ids=[[0]]) == [-1.5]
    with pytest.raises(ValueError, match="zip"):
        rubric_scores([BROKEN_KETTLE], [])


def test_a_prompt_from_elsewhere_cannot_be_judged():
    with pytest.raises(UserError, match="not a ticket"):
        rubric_score("Tell me a joke.", " No.")
