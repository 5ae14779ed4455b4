"""The file of `rlhf eval policy`, and what all evaluations have. Imports no torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from rlhf.chat_api import KEY_VARIABLE, completions_url
from rlhf.config import ModelRef, OutputSection, Section
from rlhf.datasets.config import DataConfig
from rlhf.errors import UserError
from rlhf.scoring_config import ScorerSection
from rlhf.tracking import TrackingConfig

Dtype = Literal["float32", "bfloat16", "float16"]

CANDIDATE, BASELINE = "candidate", "baseline"
"""What the two sides are called where the config does not name them."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

PLACES = ("{prompt}", "{a}", "{b}")

DEFAULT_QUESTION = """\
Which of two answers to the same prompt is better? Go by how well each does what was asked, not by its length or by \
which stands first.

[Prompt]
{prompt}

[Answer A]
{a}

[Answer B]
{b}

Reply with [[A]] if answer A is better, [[B]] if answer B is better, or [[C]] if they are equally good."""
"""The three verdicts are those of MT-Bench (Zheng et al. 2023, arXiv:2306.05685)."""


class GenerationSection(Section):
    """How completions are drawn, from both models alike."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    """0 is greedy; the KL divergence is then left out, since nothing is drawn."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Draw from this many likeliest tokens; 0 from all."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    batch_size: Annotated[int, Field(ge=1)] = 32


class IntervalSection(Section):
    """What every evaluation has: the data, the bootstrap, and where the result goes."""

    data: DataConfig
    """The held-out part, where the section makes one (`dev`, `dev_fraction`); else all of it."""
    num_bootstrap: Annotated[int, Field(ge=100)] = 10000
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    dtype: Dtype = "float32"
    """Of the weights."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    tracking: TrackingConfig = TrackingConfig()
    output: OutputSection | None = None
    """The result is published under this name as a `report`; left out, it stays in the run's folder."""


class BestOfSection(Section):
    """Best-of-n as a candidate: of n completions of a model, the one that a scorer likes most."""

    ref: ModelRef
    best_of: Annotated[int, Field(ge=2)]
    """How many completions are drawn of each prompt."""
    by: Annotated[list[ScorerSection], Field(min_length=1)]
    """What chooses among them: a reward model's ref, or a list as `judge` is."""

    @field_validator("by", mode="before")
    @classmethod
    def _ref_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [{"ref": value}]
        return [value] if isinstance(value, dict) else value


class EndpointSection(Section):
    """A judge behind a server that speaks OpenAI's chat API, asked in both orders."""

    endpoint: str
    """The server's URL, with or without `/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """What the server calls it."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What the summary calls it; `model` when left out."""
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = KEY_VARIABLE
    """The environment variable that holds the key: it stands nowhere else."""
    prompt: str = DEFAULT_QUESTION
    """What is asked, with {prompt}, {a} and {b} in it. The answer is read from its last [[A]], [[B]] or [[C]] (a tie),
    or from a reply that is nothing but that letter."""
    options: dict[str, Any] = {"temperature": 0}
    """Sent along with every request, by OpenAI's names."""
    parallel: Annotated[int, Field(ge=1, le=256)] = 4
    """Requests that are under way at once."""
    timeout_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 120.0
    """How long one answer may take."""

    @field_validator("endpoint")
    @classmethod
    def _no_secret(cls, value: str) -> str:
        try:
            url = completions_url(value, "address")
        except UserError as error:
            raise ValueError(str(error)) from None
        if url.userinfo:
            raise ValueError("holds a password, which would be written down with the config; name the key by `key_env`")
        return value

    @field_validator("prompt")
    @classmethod
    def _has_its_places(cls, value: str) -> str:
        if missing := [place for place in PLACES if place not in value]:
            raise ValueError(f"lacks {', '.join(missing)}: the judge must see the prompt and both answers")
        return value

    @field_validator("options")
    @classmethod
    def _leaves_the_question(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(value.keys() & {"model", "messages", "n", "stream"}):
            raise ValueError(f"{', '.join(taken)}: not to be set here")
        return value


def _kind_of_judge(value: Any) -> str:
    named = value.get("endpoint") if isinstance(value, dict) else getattr(value, "endpoint", None)
    return "judge[scorer]" if named is None else "judge[endpoint]"


def _kind_of_writer(value: Any) -> str:
    return "writer[best_of]" if isinstance(value, dict | BestOfSection) else "writer[ref]"


# what errors leave out of a key: names of branches have a bracket in them
JudgeSection = Annotated[
    Annotated[ScorerSection, Tag("judge[scorer]")] | Annotated[EndpointSection, Tag("judge[endpoint]")],
    Discriminator(_kind_of_judge),
]
WriterSection = Annotated[
    Annotated[ModelRef, Tag("writer[ref]")] | Annotated[BestOfSection, Tag("writer[best_of]")],
    Discriminator(_kind_of_writer),
]


class EvaluationConfig(IntervalSection):
    """Language models beside a baseline on the same held-out prompts, compared by judges."""

    candidate: ModelRef | None = None
    """The one that the summary is about; the first model of `candidates` when left out."""
    candidates: dict[Annotated[str, Field(pattern=NAME)], WriterSection] = {}
    """What stands beside it on the same prompts, by the names that tables and figures give them."""
    baseline: ModelRef
    reference: ModelRef | None = None
    """What a candidate's KL divergence is measured from; the baseline when left out."""
    judge: Annotated[list[JudgeSection], Field(min_length=1)]
    """Reward models and functions are one judge together, their weighted sum; an endpoint is one by itself. The first
    of the list is the one that the summary is about."""
    num_prompts: Annotated[int, Field(ge=1)] | None = None
    """Drawn by `seed`; all when left out."""
    generation: GenerationSection = GenerationSection()
    sft_data: DataConfig | None = None
    """Demonstrations, the held-out part where the section makes one: how likely the models still find them."""
    checkpoints: str | None = None
    """A PPO run whose held-out evaluations had a `judge`, by its id or folder: its frontier of score and divergence."""

    @model_validator(mode="after")
    def _somebody_writes(self) -> Self:
        if self.candidate is None and not self.candidates:
            raise ValueError("name a `candidate`, or several as `candidates: {name: ref}`")
        if self.candidate is None and all(isinstance(given, BestOfSection) for given in self.candidates.values()):
            raise ValueError("candidates: best-of-n stands beside a model that writes by itself; name one, too")
        if self.generation.temperature == 0 and any(isinstance(one, BestOfSection) for one in self.candidates.values()):
            raise ValueError("generation.temperature = 0: best-of-n chooses among completions that differ; draw them")
        if self.candidates.get(CANDIDATE, self.candidate) != self.candidate:
            raise ValueError(f"candidates.{CANDIDATE}: is another one than `candidate`; choose another name")
        if BASELINE in self.candidates:
            raise ValueError(f"candidates.{BASELINE}: is what the baseline is called; choose another name")
        return self

    @property
    def main(self) -> str:
        """The name of the candidate that the summary is about."""
        for name, given in self.candidates.items():
            if given == self.candidate or (self.candidate is None and isinstance(given, str)):
                return name
        return CANDIDATE

    @property
    def writers(self) -> dict[str, str | BestOfSection]:
        """All candidates by name, the main one first."""
        given = self.candidates.get(self.main, self.candidate)
        assert given is not None
        return {self.main: given, **self.candidates}
