"""Pretrain the demo's base model from nothing, on text the project generates.

`python -m rlhf.demo.pretrain` writes a folder that AutoTokenizer and AutoModelForCausalLM open: a
byte-level BPE tokenizer and a Llama of about a million parameters. The same seed on the same machine writes
the same files.
"""

import argparse
import logging
import math
import random
import shutil
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.demo import world
from rlhf.demo.lexicon import ITEMS, PROBLEMS

logger = logging.getLogger(__name__)

BASE_FOLDER = Path(__file__).parent / "base"
EOS, PAD = "<|end|>", "<|pad|>"
VOCAB_SIZE = 1024
CONTEXT = 512
SEED = 7

_CARD = """---
license: apache-2.0
language: en
library_name: transformers
---
# The demo's base model

A Llama of {parameters:,} parameters (float32) with a byte-level BPE vocabulary of {vocabulary}. It is the
raw material of `rlhf demo`, good for nothing else. `python -m rlhf.demo.pretrain` writes it: seed {seed},
{steps} steps of {batch} x {length} tokens, last loss {loss:.3f}.

It was trained on text that `rlhf.demo.world.corpus` generates about {items} products and {issues} kinds of
trouble: help pages that name the right action for a problem, lists of customers' notes, and forum threads,
where replies are of mixed quality and customers write back whether they were helped (wrongly once in twenty
times). It read customers of every (item, issue) pair, but help pages, replies and answers for training pairs
alone: held-out and development pairs were never answered. It knows neither the format of the demo's prompts
nor where an answer ends. No text written by people is in it.
"""


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the corpus and the prompts' format; digits stand alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*world.corpus(seed, 4000), *world.prompts(seed, "train", 1000)], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        padding_side="right",
    )


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A freshly initialised model in float32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def token_stream(tokenizer: PreTrainedTokenizerFast, seed: int, count: int) -> torch.Tensor:
    """All tokens of `count` documents, each ended by EOS, as one tensor [N]."""
    ids: list[int] = []
    for row in tokenizer(list(world.corpus(seed, count)))["input_ids"]:
        ids += [*row, tokenizer.eos_token_id]
    return torch.tensor(ids)


def pretrain(folder: Path, steps: int, batch: int, length: int, seed: int) -> None:
    """Train tokenizer and model and write them to `folder`, replacing what lies there."""
    started = time.monotonic()
    random.seed(seed)
    tokenizer = train_tokenizer(seed)
    model = new_model(tokenizer, seed)
    stream = token_stream(tokenizer, seed + 1, 60000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05)
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.51 + 0.49 * math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(seed)
    loss_value = float("nan")
    for step in range(1, steps + 1):
        starts = torch.randint(len(stream) - length, (batch,), generator=generator)
        input_ids = torch.stack([stream[start : start + length] for start in starts.tolist()])
        loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss_value = loss.item()
        if step % 50 == 0 or step == 1:
            seconds = time.monotonic() - started
            logger.info("step %d/%d loss %.3f seconds %.0f", step, steps, loss_value, seconds)

    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config = GenerationConfig(
        do_sample=True, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = _CARD.format(
        parameters=model.num_parameters(),
        vocabulary=len(tokenizer),
        seed=seed,
        steps=steps,
        batch=batch,
        length=length,
        loss=loss_value,
        items=len(ITEMS),
        issues=len(PROBLEMS),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    logger.info("wrote %s after %.0f seconds", folder, time.monotonic() - started)


def main() -> None:
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=BASE_FOLDER)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--length", type=int, default=160)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pretrain(options.folder, options.steps, options.batch, options.length, options.seed)


if __name__ == "__main__":
    main()
