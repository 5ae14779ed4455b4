"""Completions for people to judge, sampled from models of the registry, folders and the Hub."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from labeling_app.store import NewResponse
from rlhf.config import ModelSection
from rlhf.evaluation.config import GenerationSection
from rlhf.generation import encode_prompt, sample
from rlhf.modeling import ModelSource, context_length, device, load_causal_lm, load_tokenizer
from rlhf.pipeline.writing import Prompt, Written

logger = logging.getLogger(__name__)


class ModelWriter:
    """A language model in this process.

    Args:
        source: where it lies.
        section: how it is held in memory.
        generation: how completions are drawn.
        name: what the completions' origin is called: the ref of its very version.
    """

    def __init__(self, source: ModelSource, section: ModelSection, generation: GenerationSection, name: str) -> None:
        self.name = name
        self._generation = generation
        self._model = load_causal_lm(source, section).to(device())
        self._tokenizer = load_tokenizer(source)
        self._has_warned = False

    def write(
        self, prompts: Sequence[Prompt], num: int, seed: int, progress: Callable[[int], None] | None = None
    ) -> list[Written]:
        """`num` completions of every prompt; blank ones are left out. `progress` is told how many there are."""
        if not self._has_warned and self._tokenizer.chat_template and any(isinstance(one, str) for one in prompts):
            logger.warning("%s is a chat model and the prompts are plain text: `--chat` asks it in a chat", self.name)
            self._has_warned = True
        limit = context_length(self._model)
        room = None if limit is None else limit - self._generation.max_new_tokens
        num_tokens = [len(encode_prompt(self._tokenizer, prompt)) for prompt in prompts]
        fitting = [at for at, tokens in enumerate(num_tokens) if tokens and (room is None or tokens <= room)]
        options: dict[str, Any] = self._generation.model_dump() | {"num_return": num, "seed": seed}
        chosen = [prompts[at] for at in fitting]
        found = sample(self._model, self._tokenizer, chosen, progress=progress, **options)
        kept = {name: value for name, value in options.items() if name not in ("num_return", "batch_size")}
        written = [Written([], f"{tokens} tokens leave no room for a completion") for tokens in num_tokens]
        for at in fitting:
            written[at] = Written([], "wrote nothing but blanks")
        for completion in found:
            if completion.text.strip():
                written[fitting[completion.prompt_index]].responses.append(
                    NewResponse(completion.text, self.name, kept)
                )
        return written
