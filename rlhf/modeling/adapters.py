"""Several models in one: adapters of one base that is in memory once, each read with its own adapters at work.

PEFT switches adapters with `set_adapter`, which also says what is trained: whoever reads one adapter would freeze the
others. Here reading and training are apart.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn


def adapters_at_work(model: nn.Module) -> list[str]:
    """The adapters that a forward pass of `model` goes through now, lowest first; none where they are off."""
    layer = next((module for module in model.modules() if isinstance(module, BaseTunerLayer)), None)
    return [] if layer is None or layer.disable_adapters else list(layer.active_adapters)


@contextmanager
def put_to_work(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Inside the block `model` is its base with the adapters `names` and no others; what is trained stays as it is."""
    switches: list[Any] = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    before = [(switch._active_adapter, switch._disable_adapters) for switch in switches]
    try:
        for switch in switches:
            # a module that is saved whole is used by its own adapters alone
            own = isinstance(switch, AuxiliaryTrainingWrapper)
            found = [name for name in names if not own or name in switch._adapters]
            switch._active_adapter, switch._disable_adapters = found, not found
        yield
    finally:
        for switch, state in zip(switches, before, strict=True):
            switch._active_adapter, switch._disable_adapters = state


def carry_adapter(model: nn.Module, name: str, *, r: int = 16) -> PeftModel:
    """Attach a new LoRA to a frozen `model` that serves something else: it is off until it is put to work.

    Whoever uses `model` itself finds it as it was. The adapter is on every linear layer but a decoder's head.
    """
    config = LoraConfig(r=r, lora_alpha=2 * r, target_modules="all-linear")
    if hasattr(model, "score"):
        config.exclude_modules = ["score"]
    carrier = get_peft_model(cast(Any, model), config, adapter_name=name)
    for module in carrier.modules():
        if isinstance(module, BaseTunerLayer):
            module._disable_adapters = True
    return cast(PeftModel, carrier)


def same_adapters_again(model: nn.Module) -> Callable[[], tuple[AbstractContextManager[None], ...]]:
    """`context_fn` of `torch.utils.checkpoint`: what is computed again is computed with the adapters of the first time.

    Between a forward pass and its backward pass another adapter may have been at work.
    """

    def contexts() -> tuple[AbstractContextManager[None], ...]:
        return nullcontext(), put_to_work(model, adapters_at_work(model))

    return contexts


class AdapterStack(nn.Module):
    """A model that is `host` with the adapters `names` at work, lowest first; the host alone without any.

    It owns no parameter: moving, freezing or copying it leaves the host as it is.
    """

    def __init__(self, host: PeftModel, names: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["host"] = host  # not a submodule
        self.names = list(names)
        self.config = cast(Any, host).config

    @contextmanager
    def at_work(self) -> Iterator[PeftModel]:
        """The host, inside the block with these adapters."""
        with put_to_work(self.host, self.names):
            yield self.host

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdapterStack":
        return AdapterStack(copy.deepcopy(self.host, memo), self.names)


class AdapterRewardModel(nn.Module):
    """A reward model that is adapters of a base it shares, and a head of its own. Its parameters are the head's.

    `classifier` is a sequence classifier of transformers whose backbone is the host's: what it computes is what the
    model computed when it was trained, to the bit.
    """

    def __init__(self, stack: AdapterStack, classifier: nn.Module, head: Sequence[str]) -> None:
        super().__init__()
        self.__dict__["classifier"] = classifier
        self.stack = stack
        self.config = cast(Any, classifier).config
        self.head = nn.ModuleDict({name.replace(".", "_"): classifier.get_submodule(name) for name in head})

    def forward(self, **inputs: Any) -> Any:
        """The classifier's output; `logits` is [B, 1], or [B, M] of M heads."""
        with self.stack.at_work():
            return self.classifier(**inputs)

    @property
    def score(self) -> nn.Module:
        """The head of a decoder."""
        return cast(nn.Module, self.classifier.score)

    def standalone(self) -> nn.Module:
        """A classifier of its own with these adapters merged into its weights: a copy of the base."""
        copied = copy.deepcopy(self)
        if self.stack.names:
            copied.stack.host.merge_and_unload(adapter_names=self.stack.names)
        else:
            copied.stack.host.unload()
        return cast(nn.Module, copied.classifier)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdapterRewardModel":
        head = [name for name, module in self.classifier.named_modules() if module in list(self.head.values())]
        return AdapterRewardModel(copy.deepcopy(self.stack, memo), copy.deepcopy(self.classifier, memo), head)
