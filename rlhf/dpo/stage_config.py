"""What `rlhf dpo` takes. Imports no torch."""

import difflib
from typing import Annotated, Any, Self

from pydantic import model_validator

from rlhf.config import EarlyStopping, StageConfig, TrainerArgs
from rlhf.config.loading import TrainerArgsProblem
from rlhf.datasets import DataConfig
from rlhf.tracking import TrackingConfig

LOSS_TYPES = """sigmoid hinge ipo exo_pair nca_pair robust bco_pair sppo_hard aot aot_unpaired apo_zero apo_down
    discopop sft sigmoid_norm"""
NAMED = {"loss_type": tuple(LOSS_TYPES.split()), "truncation_mode": ("keep_start", "keep_end")}
"""What DPOTrainer would find wrong in the middle of training, as its documentation names the choices."""


class DPOStageConfig(StageConfig):
    """DPO on pairs and rankings; the reference is the model that training begins from."""

    data: DataConfig
    trainer: Annotated[dict[str, Any], TrainerArgs("DPOConfig")] = {}
    early_stopping: EarlyStopping | None = None
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        problems: list[tuple[str, Any, str]] = []
        for key, known in NAMED.items():
            value = self.trainer.get(key, known[0])
            for name in value if isinstance(value, list) else [value]:
                if name not in known:
                    close = difflib.get_close_matches(str(name), known, n=1)
                    hint = f"; did you mean {close[0]}?" if close else ""
                    problems.append((f"trainer.{key}", value, f"expected one of {', '.join(known)}{hint}"))
        if problems:
            raise TrainerArgsProblem(problems)
        return self

    @model_validator(mode="after")
    def _dropout_that_acts(self) -> Self:
        if not self.trainer.get("disable_dropout", True):
            return self
        what = "DPOConfig takes all dropout out of the model; leave it out, or set trainer.disable_dropout: false"
        if problems := [(f"model.{key}", value, what) for key, value in self.model.dropouts()]:
            raise TrainerArgsProblem(problems)
        return self
