"""Sections that name scorers, and the scorers they become."""

import sys

import pytest
import torch

from rlhf.config import Section, load_config
from rlhf.errors import UserError
from rlhf.registry import Registry
from rlhf.scorers import build_scorer, find_scorers
from rlhf.scoring import FunctionScorer, WeightedScorer
from rlhf.scoring_config import ScorerSection


class Config(Section):
    reward: list[ScorerSection]


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "home")


def read(folder, yaml):
    (folder / "config.yaml").write_text(yaml)
    return load_config(folder / "config.yaml", Config).reward


def test_a_function_is_found_beside_the_file_that_names_it(tmp_path, registry):
    (tmp_path / "beside_rewards.py").write_text(
        "def num_words(prompts, completions, **_):\n    return [len(c.split()) for c in completions]\n"
    )
    scorer = build_scorer(read(tmp_path, 'reward: [{function: "beside_rewards:num_words"}]'), registry)
    assert isinstance(scorer, FunctionScorer)
    assert scorer.name == "num_words"
    assert scorer.score(["q", "q"], ["a b", "a b c"]).tolist() == [2, 3]
    assert str(tmp_path) not in sys.path


def test_a_function_may_be_named_by_its_file(tmp_path, registry):
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "helper.py").write_text("FACTOR = 10\n")
    (tmp_path / "rewards" / "short.py").write_text(
        "from helper import FACTOR\ndef brevity(prompts, completions): return [-FACTOR * len(c) for c in completions]\n"
    )
    sections = read(tmp_path, 'reward: [{function: "rewards/short.py:brevity"}]')
    assert build_scorer(sections, registry).score(["q"], ["abc"]).tolist() == [-30]


def test_several_scorers_are_added_up_by_weight(tmp_path, registry):
    (tmp_path / "two_rewards.py").write_text(
        "def ones(prompts, completions): return [1] * len(prompts)\n"
        "def twos(prompts, completions): return [2] * len(prompts)\n"
    )
    yaml = """reward:
      - {function: "two_rewards:ones"}
      - {function: "two_rewards:twos", weight: -0.25, name: penalty}
    """
    scorer = build_scorer(read(tmp_path, yaml), registry)
    assert isinstance(scorer, WeightedScorer)
    assert [part.name for part in scorer.scorers] == ["ones", "penalty"]
    assert torch.equal(scorer.score(["q"], ["a"]), torch.tensor([0.5]))


def test_a_read_section_survives_being_written_and_read_again(tmp_path):
    (section,) = read(tmp_path, 'reward: [{function: "module:name"}]')
    dumped = section.model_dump(mode="json")
    assert dumped["folder"] == str(tmp_path)
    assert ScorerSection.model_validate(dumped) == section


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("{}", "name either `ref` (a reward model) or `function`"),
        ('{ref: a/b, function: "m:f"}', "name either `ref` (a reward model) or `function`"),
        ("{function: rewards}", "expected package.module:function or path/to/file.py:function"),
        ("{ref: a/b, folder: x}", "a `ref` needs none"),
        ('{function: "m:f", wieght: 2}', "did you mean reward.0.weight?"),
    ],
)
def test_a_section_that_names_no_scorer_is_refused(tmp_path, section, says):
    with pytest.raises(UserError) as error:
        read(tmp_path, f"reward: [{section}]")
    assert says in str(error.value)


BROKEN = """
import math
limit = 3
def brevity(prompts, completions): return [0.0] * len(prompts)
"""


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("no_such_package.rewards:f", "no module no_such_package beside the config file"),
        ("rlhf.no_such_module:f", "no module rlhf.no_such_module"),
        ("broken_rewards:brevty", "broken_rewards has no function brevty; did you mean brevity?"),
        ("broken_rewards:limit", "is 3, not a function"),
        ("imports_missing:f", "it imports not_installed_here, which is not installed"),
        ("raises_at_import:f", "cannot be imported: ZeroDivisionError: division by zero"),
        ("gone.py:f", "gone.py: no such file"),
        ("raises_at_import.py:f", "cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_function_that_cannot_be_had_is_explained(tmp_path, registry, function, says):
    (tmp_path / "broken_rewards.py").write_text(BROKEN)
    (tmp_path / "imports_missing.py").write_text("import not_installed_here\n")
    (tmp_path / "raises_at_import.py").write_text("1 / 0\n")
    with pytest.raises(UserError) as error:
        build_scorer(read(tmp_path, f'reward: [{{function: "{function}"}}]'), registry)
    assert str(error.value).startswith(f"reward.0.function = '{function}': ")
    assert says in str(error.value)
    sys.modules.pop("broken_rewards", None)


def test_all_missing_scorers_are_named_at_once(tmp_path, registry):
    lengths = '{function: "builtins:len"}'
    yaml = f'reward: [{{function: "nowhere:f"}}, {{ref: ./nothing}}, {lengths}, {lengths}]'
    with pytest.raises(UserError) as error:
        find_scorers(read(tmp_path, yaml), registry, key="judge")
    assert [problem[:8] for problem in error.value.problems] == ["judge.0.", "judge.1.", "judge: t"]
    assert "two scorers are called 'len'; give each a `name` of its own" in error.value.problems[2]
