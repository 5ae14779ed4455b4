"""What a reward model has on top of its backbone: the parts that no language model's files hold."""

from collections.abc import Iterable

from torch import nn

HEADS = ("score", "classifier")
"""What transformers calls the head of its sequence classifiers."""


def head_modules(model: nn.Module, missing: Iterable[str]) -> list[str]:
    """The modules that make up the head: what is called so, and everything that was not loaded but drawn.

    DeBERTa and BERT have a new `pooler.dense` below their classifier, DistilBERT a `pre_classifier`.

    Args:
        model: a sequence classifier.
        missing: the names of the parameters that its files did not hold.
    """
    names = {name for name in HEADS if isinstance(getattr(model, name, None), nn.Module)}
    names |= {name.rpartition(".")[0] for name in missing}
    return sorted(name for name in names if not any(name.startswith(f"{above}.") for above in names))
