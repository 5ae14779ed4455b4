from importlib import resources
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.demo import world

BASE = Path(str(resources.files("rlhf.demo") / "base"))


def test_the_shipped_base_is_small_and_holds_nothing_but_safetensors_and_text():
    files = {path.name: path.stat().st_size for path in BASE.iterdir()}
    assert set(files) == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 4_000_000


def test_the_tokenizer_gives_every_text_of_the_world_back():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|end|>", "<|pad|>")
    for row in world.demonstrations(0, "heldout", 50):
        text = row["prompt"] + row["completion"]
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert ids == tokenizer(row["prompt"])["input_ids"] + tokenizer(row["completion"])["input_ids"]
        assert len(ids) < 128


def test_the_base_opens_in_float32_and_writes():
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert model.dtype == torch.float32
    torch.manual_seed(0)
    prompt = tokenizer(world.prompts(0, "heldout", 1), return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=8)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True).strip()
