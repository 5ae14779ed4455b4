"""The section that names what judges: a trained reward model or a plain function. Imports no torch."""

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from rlhf.config import LocalPath, Located, ModelRef, Section


class ScorerSection(Section):
    """One scorer of a list: `{ref: support/reward}` or `{function: "my_rewards:brevity", weight: 0.2}`."""

    ref: ModelRef | None = None
    """A trained reward model."""
    function: str | None = None
    """`package.module:function` or `path/to/file.py:function`, called as
    `function(prompts=[...], completions=[...], **columns) -> [score, ...]`, as TRL calls reward functions."""
    folder: LocalPath | None = None
    """Where the module or file of `function` is looked for first; the folder of the file that names it."""
    weight: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    """The scores are added up, each times its weight."""
    name: Annotated[str, Field(min_length=1)] | None = None
    """What metrics call it; the function's or the model's own name when left out."""

    @model_validator(mode="before")
    @classmethod
    def _folder_of_the_file(cls, data: Any) -> Any:
        """A function is looked for beside the file that names it, whatever folder the command is run from."""
        if not isinstance(data, dict) or "folder" in data:
            return data
        function = data.get("function")
        return {**data, "folder": function.base} if isinstance(function, Located) else data

    @model_validator(mode="after")
    def _one_scorer(self) -> Self:
        if (self.ref is None) == (self.function is None):
            raise ValueError("name either `ref` (a reward model) or `function` (package.module:function)")
        if self.function is None:
            if self.folder is not None:
                raise ValueError("`folder` is where a `function` is looked for; a `ref` needs none")
            return self
        module, colon, function = self.function.rpartition(":")
        if not colon or not module.strip() or not function.isidentifier():
            raise ValueError(
                f"function = {self.function!r}: expected package.module:function or path/to/file.py:function"
            )
        return self

    def split_function(self) -> tuple[str, str]:
        """The two parts of `function`: module or file, and the name of the function in it."""
        assert self.function is not None
        module, _, name = self.function.rpartition(":")
        return module, name

    def function_file(self) -> Path | None:
        """The file of `function` where it names a file, absolute; None where it names a module."""
        module, _ = self.split_function()
        if not module.endswith(".py"):
            return None
        return ((self.folder or Path.cwd()) / Path(module).expanduser()).resolve()
