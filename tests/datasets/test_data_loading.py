"""What `load` does to records once they are read: cleaning, duplicates, splits, leaks, mixtures."""

import random
import string

import pytest
from data_files import load_one, rows_of, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.datasets import Cleaning, DataConfig, DataSource, Mixing, load
from rlhf.datasets.clean import first_of_each, identity
from rlhf.datasets.near import first_of_near
from rlhf.datasets.split import PromptKeys, is_held_out, mix, shares
from rlhf.errors import UserError
from rlhf.records import Completion, Document, Message, Preference, Prompt, Ranking, prompt_key


def prompts(tmp_path, texts, **options):
    return load_one(write_rows(tmp_path / "rows.jsonl", [{"prompt": text} for text in texts]), **options)


def sentence(seed, words=40):
    letters = random.Random(seed)
    return " ".join("".join(letters.choices(string.ascii_lowercase, k=6)) for _ in range(words))


# Cleaning


def test_ends_of_completions_are_cut_and_prompts_are_left_alone(tmp_path):
    rows = [
        {"prompt": "Q: hm?\nA: ", "completion": " yes \n"},
        {"text": "  a document \n"},
        {"messages": [{"role": "user", "content": " u "}, {"role": "assistant", "content": "a\n"}]},
    ]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert rows_of(load_one(path)) == [
        {"prompt": "Q: hm?\nA: ", "completion": " yes"},
        {"text": "a document"},
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
    ]
    assert rows_of(load_one(path, cleaning=Cleaning(strip=False))) == rows


def test_unicode_and_line_ends_have_one_form(tmp_path):
    row = {"prompt": "cafe\u0301\r\nx", "completion": "\ufb01ne"}
    path = write_rows(tmp_path / "a.jsonl", [row])
    assert rows_of(load_one(path)) == [{"prompt": "caf\u00e9\nx", "completion": "\ufb01ne"}]
    assert rows_of(load_one(path, cleaning=Cleaning(unicode="NFKC")))[0]["completion"] == "fine"
    assert rows_of(load_one(path, cleaning=Cleaning(unicode="none"))) == [row]


def test_an_answer_of_nothing_but_space_is_a_problem(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "P", "completion": "C"}, {"prompt": "P", "completion": " \n"}])
    assert [problem.what for problem in load_one(path).problems] == ["`completion` is empty (found '')"]


def test_records_of_the_wrong_length_are_left_out_and_counted(tmp_path):
    loaded = prompts(tmp_path, ["a", "abc", "abcdef"], cleaning=Cleaning(min_chars=2, max_chars=4))
    assert [record.prompt for record in loaded.train] == ["abc"]
    assert loaded.report.removed == {"too_short": 1, "too_long": 1, "duplicate": 0}


# Duplicates


def test_exact_duplicates_ignore_spacing(tmp_path):
    loaded = prompts(tmp_path, ["a b", "a  b\n", "a c"])
    assert [record.prompt for record in loaded.train] == ["a b", "a c"]
    assert loaded.report.removed["duplicate"] == 1
    assert len(prompts(tmp_path, ["a b", "a b"], cleaning=Cleaning(dedupe="none")).train) == 2


def test_two_people_who_agree_are_no_duplicate():
    def ranking(annotator, tiers):
        return Ranking(prompt="P", completions=["a", "b"], tiers=tiers, annotator=annotator)

    records = [
        ranking("ann", [[0], [1]]),
        ranking("bob", [[0], [1]]),
        ranking("ann", [[1], [0]]),
        ranking("ann", [[0], [1]]),
    ]
    assert first_of_each([identity(record) for record in records]) == [True, True, True, False]


def test_a_text_and_a_message_are_no_duplicates():
    as_text, as_message = Prompt(prompt="Hi"), Prompt(prompt=[Message(role="user", content="Hi")])
    assert identity(as_text) != identity(as_message)


def test_near_duplicates_are_found_when_each_text_is_near():
    prompt, other, answer = sentence(1), sentence(2), sentence(3)
    records = [
        Completion(prompt=prompt, completion=answer),
        Completion(prompt=prompt + "!", completion=answer.upper()),  # nearly the first
        Completion(prompt=prompt, completion=other),  # another answer
        Completion(prompt=other, completion=answer),  # another prompt
    ]
    assert list(first_of_near(records, 0.85)) == [True, False, True, True]


def test_near_duplicates_of_preferences_keep_other_verdicts():
    prompt, good, bad = sentence(1), sentence(2), sentence(3)
    pair = Preference(prompt=prompt, chosen=good, rejected=bad, annotator="ann")
    records = [pair, pair.model_copy(update={"annotator": "bob"}), pair.model_copy(update={"prompt": prompt + " x"})]
    assert list(first_of_near(records, 0.85)) == [True, True, False]


def test_texts_shorter_than_a_run_are_compared_too():
    assert list(first_of_near([Document(text="ab"), Document(text="AB"), Document(text="cd")], 0.85)) == [
        True,
        False,
        True,
    ]


words = st.text(alphabet="ab ", min_size=1, max_size=12).filter(str.strip)


@settings(deadline=None)  # near duplicates import their library at the first use
@given(st.lists(words, max_size=20))
def test_removing_duplicates_twice_is_removing_them_once(texts):
    records = [Document(text=text) for text in texts]
    for keep in (
        lambda kept: first_of_each([identity(record) for record in kept]),
        lambda kept: first_of_near(kept, 0.5),
    ):
        once = [record for record, new in zip(records, list(keep(records)), strict=True) if new]
        assert all(keep(once))


# What is held out


def test_the_split_goes_by_prompt_and_not_by_row(tmp_path):
    rows = [{"prompt": f"P{number % 40}", "completion": f"C{number}"} for number in range(400)]
    loaded = load_one(write_rows(tmp_path / "a.jsonl", rows), dev_fraction=0.25)
    halves = [{record.prompt for record in half} for half in (loaded.train, loaded.dev)]
    assert halves[0] | halves[1] == {f"P{number}" for number in range(40)}
    assert not halves[0] & halves[1]
    assert 4 <= len(halves[1]) <= 16
    assert len(loaded.dev) == 10 * len(halves[1])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20, deadline=None)
@given(old=st.sets(words, min_size=1), new=st.sets(words), seed=st.integers(0, 5), fraction=st.floats(0, 0.9))
def test_added_rows_move_no_prompt_to_the_other_half(old, new, seed, fraction):
    def held_out(texts):
        keys = PromptKeys()
        return {text for text in texts if is_held_out(keys.opening(Prompt(prompt=text)), fraction, seed)}

    assert held_out(old | new) & old == held_out(old)


@given(words, words, st.floats(0, 1))
def test_prompts_with_one_key_are_in_one_half(a, b, fraction):
    records = Prompt(prompt=a), Prompt(prompt=b)
    keys = PromptKeys()
    first, second = [is_held_out(keys.opening(record), fraction, 0) for record in records]
    assert prompt_key(a) != prompt_key(b) or first == second


def test_the_run_seed_does_not_move_the_split(tmp_path):
    texts = [f"prompt {number}" for number in range(100)]
    dev = [{r.prompt for r in prompts(tmp_path, texts, dev_fraction=0.2, seed=seed).dev} for seed in (0, 1)]
    assert dev[0] == dev[1]
    other = {r.prompt for r in prompts(tmp_path, texts, dev_fraction=0.2, split_seed=1).dev}
    assert other != dev[0]


def test_the_split_does_not_depend_on_the_form_of_a_prompt():
    keys = PromptKeys()
    same = [
        "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: And?\n\nAssistant:",
        "\n\nHuman: Hi\n\nAssistant:",
        [Message(role="user", content="Hi")],
        [Message(role="user", content="Hi"), Message(role="assistant", content="x"), Message(role="user", content="y")],
        "Hi",
    ]
    assert len({keys.opening(Prompt(prompt=prompt)) for prompt in same}) == 1
    assert len({keys.whole(Prompt(prompt=prompt)) for prompt in same}) == 3


def test_of_a_source_that_says_so_nothing_is_held_out(tmp_path):
    paths = [
        write_rows(tmp_path / f"{name}.jsonl", [{"prompt": f"{name} {number}"} for number in range(40)])
        for name in ("first", "later")
    ]
    sources = [DataSource(path=str(paths[0])), DataSource(path=str(paths[1]), held_out=False)]
    alone = load(DataConfig(sources=sources[:1], dev_fraction=0.25), [Prompt], seed=0)
    both = load(DataConfig(sources=sources, dev_fraction=0.25), [Prompt], seed=0)
    assert [record.prompt for record in both.dev] == [record.prompt for record in alone.dev] != []
    assert len(both.train) == 80 - len(both.dev)


def test_held_out_prompts_are_taken_out_of_training(tmp_path):
    train = write_rows(
        tmp_path / "train.jsonl", [{"prompt": "a", "completion": "x"}, {"prompt": "b", "completion": "y"}]
    )
    dev = write_rows(tmp_path / "dev.jsonl", [{"prompt": " b ", "completion": "z"}])
    loaded = load_one(train, dev=[DataSource(path=str(dev))])
    assert [record.prompt for record in loaded.train] == ["a"]
    assert [record.completion for record in loaded.dev] == ["z"]
    assert loaded.report.removed["prompt_in_dev"] == 1


def test_nearly_held_out_prompts_are_taken_out_too_if_asked(tmp_path):
    text = sentence(1)
    train = write_rows(tmp_path / "train.jsonl", [{"prompt": text + " Thanks."}, {"prompt": sentence(2)}])
    dev = write_rows(tmp_path / "dev.jsonl", [{"prompt": text}])
    source = DataSource(path=str(dev))
    assert len(load_one(train, dev=[source]).train) == 2
    near = load_one(train, dev=[source], cleaning=Cleaning(dedupe="near"))
    assert [record.prompt for record in near.train] == [sentence(2)]
    # Here the held-out row is a near duplicate as well, and it is the held-out side that stays whole.
    assert (len(near.dev), near.report.removed["near_dev"]) == (1, 1)


def test_the_same_file_on_both_sides_is_said(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "a"}])
    with pytest.raises(UserError, match="are the two the same file"):
        load_one(path, dev=[DataSource(path=str(path))])


def test_nothing_left_to_train_on_is_said_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"nothing is left to train on of 2 records\n  2 left out: too short"):
        prompts(tmp_path, ["a", "b"], cleaning=Cleaning(min_chars=5))


def test_an_empty_held_out_half_is_noted(tmp_path):
    loaded = prompts(tmp_path, ["only one"], dev_fraction=0.001)
    assert loaded.report.notes == ["nothing is held out: too few prompts for dev_fraction = 0.001"]


# The mixture


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [
        (Mixing(), [100, 200]),
        (Mixing(total=30), [10, 20]),
        (Mixing(temperature=float("inf")), [100, 200]),
        (Mixing(temperature=float("inf"), total=90), [30, 60]),
        (Mixing(temperature=2, total=90), [30, 60]),
    ],
)
def test_equal_sources_share_by_weight(mixing, expected):
    assert shares([100, 100], [1, 2], mixing) == expected


def test_temperature_evens_out_sizes():
    sizes, weights = [100, 10_000], [1.0, 1.0]
    assert shares(sizes, weights, Mixing()) == [100, 10_000]
    assert shares(sizes, weights, Mixing(temperature=2, total=1100)) == [100, 1000]
    assert shares(sizes, weights, Mixing(temperature=float("inf"), total=1000)) == [500, 500]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.floats(0.1, 5)), min_size=1).filter(
        lambda pairs: any(n for n, _ in pairs)
    ),
    st.integers(1, 200),
)
def test_shares_add_up_to_the_total(pairs, total):
    counts = shares([size for size, _ in pairs], [weight for _, weight in pairs], Mixing(total=total))
    assert sum(counts) == total
    assert all(size or not count for (size, _), count in zip(pairs, counts, strict=True))


def test_a_weight_repeats_whole_passes_and_samples_the_rest_without_repetition():
    mixed = mix([["a", "b", "c", "d"], ["x"]], [1.5, 1], Mixing(), seed=0)
    counts = {letter: mixed.count(letter) for letter in "abcd"}
    assert sorted(counts.values()) == [1, 1, 2, 2]
    assert mixed.count("x") == 1


def test_the_order_follows_from_the_seed():
    rows = [list(range(50))]
    assert mix(rows, [1], Mixing(), seed=1) == mix(rows, [1], Mixing(), seed=1)
    assert mix(rows, [1], Mixing(), seed=1) != mix(rows, [1], Mixing(), seed=2)
    assert mix(rows, [1], Mixing(shuffle=False), seed=1) == rows[0]


def test_the_held_out_rows_are_not_mixed(tmp_path):
    train = write_rows(tmp_path / "a.jsonl", [{"prompt": f"P{number}"} for number in range(50)])
    config = DataConfig(sources=[DataSource(path=str(train), weight=3)], dev_fraction=0.5)
    loaded = load(config, [Prompt], seed=0)
    assert len(loaded.train) + 3 * len(loaded.dev) == 150


# The report


def test_the_report_counts_what_happened(tmp_path):
    rows = [{"prompt": f"P{number % 10}", "completion": f" C{number}"} for number in range(20)] + [{"prompt": 5}]
    rows.append(rows[0])
    path = write_rows(tmp_path / "a.jsonl", rows)
    loaded = load_one(path, dev_fraction=0.5, name="mine")
    report = loaded.report
    assert (report.num_rows, report.num_set_aside) == (22, 1)
    assert report.num_train == len(loaded.train)
    assert report.num_train + report.num_dev == 20
    assert report.num_train_prompts + report.num_dev_prompts == 10
    assert report.removed == {"duplicate": 1, "prompt_in_dev": 0}
    assert report.sources[0].name == "mine"
    assert report.sources[0].kinds == {"completion": 21}
    assert report.lengths["prompt"]["max"] == 2
    assert report.summary().startswith("mine: 1 of 22 rows set aside; first: ")


def test_texts_that_meet_without_a_space_are_noted(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [{"prompt": "Why?", "completion": "Because."}])
    assert "('Why?Because.')" in load_one(path).report.notes[0]
    assert load_one(path, template={"prompt": "{prompt}\n"}).report.notes == []
    assert load_one(path, conversational=True).report.notes == []
