"""What the KL penalty is measured from: a frozen model, or a model that is in memory already with other adapters."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from torch import nn

from rlhf.errors import UserError
from rlhf.modeling import AdapterStack, adapters_at_work, put_to_work
from rlhf.ppo.forward import check_reads_policy, check_writes
from rlhf.trl_compat import use_adapter

REFERENCE_ADAPTER = "reference"


class Reference:
    """The policy that KL is measured against: a frozen model, or a model with other adapters at work or none."""

    def __init__(self, model: nn.Module, adapters: Sequence[str] | None = None, *, is_own: bool = False) -> None:
        """`adapters` are put to work for it; None leaves `model` as it is. `is_own`: nothing else uses it."""
        self.model = model if is_own else None
        """Where it is a model of its own."""
        self.host = model
        """What is run for it."""
        self._adapters = adapters

    @contextlib.contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The reference as a model, for as long as the block lasts."""
        if self._adapters is None:
            yield self.host
        elif _is_prompt_learning(self.host):
            with use_adapter(cast(PeftModel, self.host), next(iter(self._adapters), None)):
                yield self.host
        else:
            with put_to_work(self.host, self._adapters):
                yield self.host

    def to(self, device: torch.device) -> None:
        """Move it."""
        self.host.to(device)


def build_reference(
    policy: nn.Module, ref_model: nn.Module | None, ref_adapter_name: str | None, fresh_adapter: bool
) -> Reference:
    """The reference for `policy` as it is now.

    Without a `ref_model`: a full policy is copied; a PEFT policy whose adapter is new (`fresh_adapter`) is referred to
    its base, adapters off; one that came with an adapter (from SFT, say) keeps a frozen copy of that adapter as it is
    now under the name "reference", so that KL starts at 0 whatever the adapter had learned.

    Raises UserError for one that cannot tell how likely it finds the policy's tokens.
    """
    if isinstance(ref_model, AdapterStack):
        return Reference(ref_model.host, ref_model.names)
    if ref_model is not None:
        check_writes(ref_model, "ref_model")
        check_reads_policy(ref_model, "ref_model", policy)
        return Reference(ref_model.requires_grad_(False).eval(), is_own=True)
    if not isinstance(policy, PeftModel):
        return Reference(copy.deepcopy(policy).requires_grad_(False).eval(), is_own=True)
    if ref_adapter_name is not None:
        if ref_adapter_name not in policy.peft_config:
            raise UserError(
                f"ref_adapter_name: the policy has no adapter {ref_adapter_name!r}; it has {[*policy.peft_config]}"
            )
        return Reference(policy, [ref_adapter_name])
    if fresh_adapter:
        return Reference(policy, [])
    active, at_work = policy.active_adapter, adapters_at_work(policy)
    copy_adapter(policy, active, REFERENCE_ADAPTER)
    if _is_prompt_learning(policy):
        policy.set_adapter(active)
        return Reference(policy, [REFERENCE_ADAPTER])
    put_back_to_training(policy, at_work)
    return Reference(policy, [REFERENCE_ADAPTER if name == active else name for name in at_work])


def _is_prompt_learning(model: nn.Module) -> bool:
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def copy_adapter(model: PeftModel, source: str, name: str) -> None:
    """Add to `model` a frozen copy of its adapter `source`; what is at work and trained is to be set again after."""
    config = copy.deepcopy(model.peft_config[source])
    config.inference_mode = True
    model.add_adapter(name, config)
    weights = get_peft_model_state_dict(model, adapter_name=source, save_embedding_layers=False)
    set_peft_model_state_dict(model, weights, adapter_name=name)


def put_back_to_training(model: PeftModel, at_work: Sequence[str]) -> None:
    """Put the adapters `at_work` to work, and train the model's own alone."""
    model.base_model.set_adapter(list(at_work), inference_mode=True)
    model.set_requires_grad(model.active_adapter)
