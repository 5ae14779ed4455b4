"""Talk to one or several models: what `rlhf chat` and a curious reader use."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.errors import UserError
from rlhf.generation import Messages, sample
from rlhf.modeling import device, find_model, load_causal_lm, load_tokenizer
from rlhf.registry import Registry


@dataclass
class Partner:
    """One model and the conversation with it so far."""

    ref: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: str | None = None
    messages: Messages = field(default_factory=list)

    def reply(self, text: str, *, max_new_tokens: int, temperature: float, seed: int) -> str:
        """The model's answer to `text`, which joins the conversation where the model has a chat template.

        A model without one is asked afresh each time, with `template` around the text.

        Raises:
            UserError: the conversation has outgrown the model's context.
        """
        prompt: str | Messages
        if self.template is not None:
            prompt = self.template.replace("{text}", text)
        elif self.tokenizer.chat_template is None:
            prompt = text
        else:
            self.messages.append({"role": "user", "content": text})
            prompt = self.messages
        [completion] = sample(
            self.model, self.tokenizer, [prompt], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
        if prompt is self.messages:
            self.messages.append({"role": "assistant", "content": completion.text})
        return completion.text.strip()


def open_partners(refs: Sequence[str], registry: Registry, template: str | None) -> list[Partner]:
    """Load every model that is to answer.

    Raises:
        UserError: a model is not there or cannot write, or `template` has no place for the text.
    """
    if template is not None and "{text}" not in template:
        raise UserError(f"--template {template!r}: has no {{text}} where the message goes")
    if template is not None:  # as a shell passes it on
        template = template.replace("\\n", "\n").replace("\\t", "\t")
    partners = []
    for ref in refs:
        source = find_model(ref, registry, kinds=("base", "sft", "policy"), key="chat")
        model = load_causal_lm(source).to(device()).eval()
        partners.append(Partner(source.ref, model, load_tokenizer(source), template))
    return partners


def converse(partners: Sequence[Partner], lines: Iterator[str], **options: Any) -> Iterator[tuple[str, str]]:
    """(ref, answer) of every partner to every line; blank lines are passed over."""
    for number, line in enumerate(text for text in lines if text.strip()):
        for partner in partners:
            yield partner.ref, partner.reply(line.strip(), **{**options, "seed": options["seed"] + number})
