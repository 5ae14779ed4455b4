"""The example of how to load an export, as its card shows it. A test runs each one in a fresh process."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf.export.card import CardModel

_WRITER = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder!r}  # where this folder lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
{inputs}
output = model.generate(**inputs, max_new_tokens=64)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))"""

_SCORER = """\
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

folder = {folder!r}  # where this folder lies
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSequenceClassification.from_pretrained(folder)
{inputs}
with torch.no_grad():
    print(model(**inputs).logits[0, 0].item(){offset})"""

_ADAPTER = """\
from peft import PeftModel
from transformers import {auto}, AutoTokenizer

folder = {folder!r}  # where this folder lies
base = {base!r}  # the base model: {whence}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained({auto}.from_pretrained(base{labels}), folder)"""

_TEXT = 'inputs = tokenizer("Hello", return_tensors="pt", return_token_type_ids=False)'
_CHAT = """\
inputs = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Hello"}}{answer}],
    {prompting}return_tensors="pt",
    return_dict=True,
)"""


def loading_snippet(model: "CardModel", folder_name: str, base: str | None) -> str:
    """A Python block that loads the export and uses it once, and what must be known besides."""
    if model.format == "adapter":
        auto = "AutoModelForSequenceClassification" if model.scores else "AutoModelForCausalLM"
        on_hub = base is not None and "@" not in base
        code = _ADAPTER.format(
            auto=auto,
            folder=folder_name,
            base=base if on_hub else "base",
            whence="of the Hugging Face Hub" if on_hub else f"{base}, exported as merged",
            labels=", num_labels=1" if model.scores else "",
        )
        return f"```python\n{code}\n```"
    if not model.scores:
        prompting = "add_generation_prompt=True,\n    "
        inputs = _CHAT.format(answer="", prompting=prompting) if model.conversational else _TEXT
        return f"```python\n{_WRITER.format(folder=folder_name, inputs=inputs)}\n```"
    return _scorer(model, folder_name)


def _scorer(model: "CardModel", folder_name: str) -> str:
    if model.conversational:
        inputs = _CHAT.format(answer=', {"role": "assistant", "content": "Good day."}', prompting="")
        how = "It reads prompt and completion together, as the chat template writes them."
    else:
        end = " + tokenizer.eos_token" if model.appends_eos else ""
        inputs = f'inputs = tokenizer("Hello" + " Good day."{end}, return_tensors="pt")'
        how = "It reads the prompt and directly after it the completion" + (
            ", closed by the end token." if model.appends_eos else "."
        )
    offset = f" - {model.score_offset!r}" if model.score_offset else ""
    note = (
        f"\n\nThe offset {model.score_offset!r} (`score_offset` in `reward.json`) is taken from the model's output; "
        "with it, the completions that the scores were centred on average 0."
        if model.score_offset
        else ""
    )
    code = _SCORER.format(folder=folder_name, inputs=inputs, offset=offset)
    return f"{how}\n\n```python\n{code}\n```{note}"
