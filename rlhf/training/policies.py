"""What stages that train a policy by a trainer of TRL's share: its reference, and how it is published."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from peft import PeftModel
from torch import nn
from transformers import Trainer

from rlhf.config import ModelSection, StageConfig
from rlhf.datasets import Loaded
from rlhf.modeling import ModelSource, load_causal_lm, save_model
from rlhf.registry import Artefact
from rlhf.tracking import Run
from rlhf.workspace import Workspace

TRAINABLE_KINDS = ("base", "sft", "policy")
"""What a policy may begin as."""


def policy_of(trainer: Trainer) -> nn.Module:
    """The model that is trained."""
    return cast(nn.Module, trainer.accelerator.unwrap_model(trainer.model))


def load_reference(source: ModelSource, section: ModelSection) -> nn.Module:
    """The model that training begins from, without what is trained."""
    return load_causal_lm(source, section.model_copy(update={"adapter": None, "freeze": []}))


def drop_reference_copy(model: nn.Module) -> None:
    """Take away the copy that TRL makes of an adapter as its own reference: a new adapter's is the base without any."""
    if isinstance(model, PeftModel) and "ref" in model.peft_config:
        model.delete_adapter("ref")


@contextmanager
def as_it_began(policy: nn.Module, reference: nn.Module | None) -> Iterator[nn.Module]:
    """The model that training began from: the adapter's base inside the block, else `reference`."""
    if isinstance(policy, PeftModel):
        with policy.disable_adapter():
            yield policy
    else:
        assert reference is not None, "a whole model has its reference beside it"
        yield reference


def publish_policy(
    config: StageConfig,
    workspace: Workspace,
    run: Run,
    trainer: Trainer,
    *,
    method: str,
    source: ModelSource,
    parents: Sequence[tuple[str, Artefact]],
    metadata: Mapping[str, Any],
    stopped: str | None = None,
) -> str:
    """Publish the trainer's policy; returns its ref.

    Args:
        config: the stage's.
        workspace: its registry takes the policy.
        run: the run that made it.
        trainer: holds the policy.
        method: by which it was trained, as the command is called.
        source: what it began as.
        parents: what else it was made from, by role.
        metadata: what is kept of it beside seed and method.
        stopped: why training was stopped, for a policy that is not to be the latest; it then gets no alias.
    """
    base = source.publish(workspace.registry)
    out = config.output
    about = {"seed": config.seed, "method": method, **metadata} | ({"stopped": stopped} if stopped else {})
    with TemporaryDirectory(dir=run.folder) as scratch:
        save_model(cast(Any, policy_of(trainer)), cast(Any, trainer.processing_class), Path(scratch), base_ref=base.ref)
        artefact = workspace.registry.publish(
            Path(scratch),
            kind="policy",
            name=out.stopped_name if stopped else out.name,
            parents=[("base", base), *parents],
            metadata=about,
            alias=None if stopped else out.alias,
            run_id=run.id,
        )
    return artefact.ref


def who_judged(data: Loaded) -> dict[str, Any]:
    """The annotators by pseudonym with how much each judged, and whether any of it was simulated.

    A judgement that the mixture repeats is one.
    """
    records = {id(record): record for record in (*data.train, *data.dev)}.values()
    counts = Counter(name for record in records if (name := getattr(record, "annotator", None)))
    return {
        "annotators": [{"name": name, "num_judgements": number} for name, number in sorted(counts.items())],
        "simulated": any(getattr(record, "simulated", False) for record in records),
    }
