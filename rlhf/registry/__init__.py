"""Artefacts and where they come from; `Registry` is the way in."""

from rlhf.registry.artefact import KINDS, Artefact, Garbage, GcPlan, Kept, Kind, LineageNode, Parent
from rlhf.registry.names import LATEST, Ref
from rlhf.registry.registry import ANY, AliasMoved, Registry

__all__ = [
    "ANY",
    "KINDS",
    "LATEST",
    "AliasMoved",
    "Artefact",
    "Garbage",
    "GcPlan",
    "Kept",
    "Kind",
    "LineageNode",
    "Parent",
    "Ref",
    "Registry",
]
