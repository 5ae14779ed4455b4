"""Every name of TRL that is not in its public API and that this project uses, so that a TRL release breaks one file."""

from trl.trainer.base_config import _BaseConfig as BaseConfig
from trl.trainer.base_trainer import _BaseTrainer as BaseTrainer
from trl.trainer.utils import (
    disable_dropout_in_model,
    selective_log_softmax,
    selective_log_softmax_and_entropy,
    use_adapter,
)

__all__ = [
    "BaseConfig",
    "BaseTrainer",
    "disable_dropout_in_model",
    "selective_log_softmax",
    "selective_log_softmax_and_entropy",
    "use_adapter",
]
