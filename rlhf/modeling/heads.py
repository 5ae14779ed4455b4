"""What a reward model has on top of its backbone: the parts that no language model's files hold."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn


def head_modules(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The modules that make up the head: all beside the backbone, its pooler, and what was not loaded but drawn.

    A decoder has `score` and an encoder `classifier`; DistilBERT has a `pre_classifier` and DeBERTa a `pooler` as well,
    and BERT's is a part of its backbone.

    Args:
        model: a sequence classifier of transformers.
        missing: the names of the parameters that its files did not hold.
    """
    backbone = str(model.base_model_prefix)
    names = {name for name, _ in model.named_children() if name != backbone} | {f"{backbone}.pooler"}
    found = {name for name, module in model.named_modules() if name in names and any(True for _ in module.parameters())}
    found |= {name.rpartition(".")[0] for name in missing}
    return sorted(name for name in found if not any(name.startswith(f"{above}.") for above in found))


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32, whatever it is given and under autocast as well."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """[..., in] of any floating dtype to [..., out] float32."""
        bias = None if self.bias is None else self.bias.float()
        with torch.autocast(input.device.type, enabled=False):
            return nn.functional.linear(input.float(), self.weight.float(), bias)


class MembersLinear(Float32Linear):
    """The same, each of its M outputs computed by itself.

    What a member of an ensemble says is then what it would say alone, to the bit: a product with a matrix is added up
    in another order than one with a vector.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """[..., in] of any floating dtype to [..., M] float32."""
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        with torch.autocast(input.device.type, enabled=False):
            outputs = [
                nn.functional.linear(input.float(), weight[i : i + 1], None if bias is None else bias[i : i + 1])
                for i in range(self.out_features)
            ]
        return torch.cat(outputs, dim=-1)


def put_head_in_float32(model: nn.Module, head: Iterable[str]) -> None:
    """Hold the modules `head` in float32, and let their linear layers compute in it.

    A score is one number that is compared with others close to it: bfloat16 knows 256 between 1 and 2.
    """
    num_outputs = int(cast(Any, model).config.num_labels)
    for name in head:
        top = model.get_submodule(name).float()
        for module in top.modules():
            if type(module) is nn.Linear:  # not a quantized one
                module.__class__ = MembersLinear if module.out_features == num_outputs > 1 else Float32Linear
