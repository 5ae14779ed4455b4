"""The sections every stage shares."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlhf.config.located import ModelRef
from rlhf.config.names import alias_problem, name_problem


class Section(BaseModel):
    """A part of a config: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterSection(Section):
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685) instead of training every weight."""

    method: Literal["lora"] = "lora"
    r: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the update times r; twice r when left out."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"


class ModelSection(Section):
    """Which model a stage starts from and how it is held in memory."""

    ref: ModelRef
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights. Masters in float32 with `trainer.bf16: true` is what learns well at small learning rates."""
    attention: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3"] | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    """Of a frozen base under an adapter; needs the `bitsandbytes` package."""
    adapter: AdapterSection | None = None
    freeze: list[str] = []
    """Parameters whose names match one of these patterns (`model.embed_tokens.*`) are not trained."""
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Set every dropout of the model to this; left out, the model's own config stands."""

    def dropouts(self) -> list[tuple[str, float]]:
        """The dropout that is asked for, with its key below `model`."""
        adapters = self.adapter.dropout if self.adapter else None
        return [(key, value) for key, value in (("dropout", self.dropout), ("adapter.dropout", adapters)) if value]

    @model_validator(mode="after")
    def _quantized_under_an_adapter(self) -> Self:
        if self.quantization and not self.adapter:
            raise ValueError("quantization: quantized weights cannot be trained; set `adapter` (`adapter: {r: 16}`)")
        return self


class OutputSection(Section):
    """Where in the registry the result goes."""

    name: str
    alias: str | None = None
    """Moved to the new version once it is published (`latest` always is)."""

    @property
    def data_name(self) -> str:
        """What the rows that were used are called."""
        return f"{self.name}-data"

    @property
    def stopped_name(self) -> str:
        """What the last good state is called when a monitor stops training: it never is the `latest` of `name`."""
        return f"{self.name}-stopped"

    @field_validator("name")
    @classmethod
    def _group_and_name(cls, value: str) -> str:
        if value.count("/") != 1:
            raise ValueError("expected `group/name`, such as `support/policy`")
        if problem := name_problem(value):
            raise ValueError(problem)
        return value

    @field_validator("alias")
    @classmethod
    def _can_be_moved(cls, value: str | None) -> str | None:
        if value is not None and (problem := alias_problem(value)):
            raise ValueError(problem)
        return value


class EarlyStopping(Section):
    """Stop when the held-out loss has not improved for a while, and go back to the best weights."""

    patience: Annotated[int, Field(ge=1)] = 3
    """How many evaluations without improvement are waited for."""
    threshold: Annotated[float, Field(ge=0)] = 0.0
    """How much lower the loss has to be to count as an improvement."""


class StageConfig(Section):
    """What every training stage has."""

    model: ModelSection
    output: OutputSection
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
