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
    {score}"""

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
            labels=f", num_labels={model.num_outputs}" if model.scores else "",
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
    score, note = _combined(model) if model.reward.combine else _single(model)
    code = _SCORER.format(folder=folder_name, inputs=inputs, score=score)
    return f"{how}\n\n```python\n{code}\n```{note}"


def _single(model: "CardModel") -> tuple[str, str]:
    """The line that prints the score, and what is to be said of it."""
    offset = model.reward.score_offset
    if not offset:
        return "print(model(**inputs).logits[0, 0].item())", ""
    return f"print(model(**inputs).logits[0, 0].item() - {offset!r})", (
        f"\n\nThe offset {offset!r} (`score_offset` in `reward.json`) is taken from the model's output; "
        "with it, the completions that the scores were centred on average 0."
    )


def _combined(model: "CardModel") -> tuple[str, str]:
    """The same for an ensemble."""
    about = model.reward
    combined = {
        "mean": "scores.mean()",
        "worst": "scores.min()",
        "mean_minus_std": f"(scores.mean() - {about.std_coef!r} * scores.std(correction=0))",
    }[about.combine or "mean"]
    line = f"scores = model(**inputs).logits[0] - torch.tensor({about.score_offset!r})\n    print({combined}.item())"
    return line, (
        f"\n\nIt is an ensemble of {model.num_outputs} reward models, an output each: `reward.json` has what is taken "
        f"from each (`score_offset`) and how they make one score (`combine`: {about.combine}). Their standard "
        "deviation says how little they agree."
    )
