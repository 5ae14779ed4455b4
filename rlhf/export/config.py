"""The `export` section. Imports no torch."""

from typing import Literal

from rlhf.config import LocalPath, ModelRef, Section

Format = Literal["merged", "adapter"]


class ExportConfig(Section):
    """What is written where."""

    model: ModelRef
    path: LocalPath
    """A folder that does not exist yet, is empty, or holds an earlier export, which is replaced."""
    format: Format = "merged"
    """`merged` is a whole model that stands alone, `adapter` the adapter by itself."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the weights written; as they are stored when left out."""
    overwrite: bool = False
    """Replace a folder that is no earlier export, whatever is in it."""
