"""What all benchmarks here share: the SFT model of a finished `rlhf demo` and what it writes to many prompts.

Training prompts are put before simulated annotators; to held-out ones the rubric itself says what is right.
"""

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling_app.converting import to_records
from labeling_app.panels import Character, make_panel
from labeling_app.simulated import Judge, answer_queue
from labeling_app.store import NewResponse, NewTask, Store, StoreSettings
from rlhf.config import ModelSection
from rlhf.demo import world
from rlhf.demo.annotators import Rubric
from rlhf.demo.rubric import rubric_scores
from rlhf.generation import sample
from rlhf.modeling import find_model, load_causal_lm, load_tokenizer
from rlhf.records import Ranking
from rlhf.registry import Registry

NUM_COMPLETIONS = 4
NUM_HELD_OUT = 600
"""Prompts by which reward models are measured; their tickets are in no training prompt."""
SFT = "support/sft"


@dataclass(frozen=True)
class Item:
    """A prompt and different completions of it."""

    prompt: str
    completions: tuple[str, ...]


@dataclass(frozen=True)
class Pool:
    """Items to be asked about, the rubric's own rankings of others in a file, and the folder of the SFT model."""

    items: list[Item]
    held_out: Path
    sft: Path


def load_pool(home: Path, num_items: int) -> Pool:
    """The first `num_items` prompts of seed 0 and what the demo's SFT model writes to them; sampled once for a home."""
    source = find_model(SFT, Registry(home))
    folder = home / "loop" / source.artefact.digest[:12] if source.artefact else home / "loop"
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "train": folder / f"train-{num_items}.jsonl",
        "heldout": folder / f"heldout-{NUM_HELD_OUT}.jsonl",
    }
    for split, count in (("train", num_items), ("heldout", NUM_HELD_OUT)):
        if not files[split].is_file():
            items = _write(source, world.prompts(0, split, count))
            rows = [{"prompt": item.prompt, "completions": item.completions} for item in items]
            files[split].write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    rankings = folder / "heldout-rankings.jsonl"
    rows = collect(_read(files["heldout"]), [Rubric()])
    rankings.write_text("".join(f"{json.dumps(row.row())}\n" for row in rows if len(row.tiers) > 1))
    return Pool(_read(files["train"]), rankings, source.folder)


def _write(source: Any, prompts: Sequence[str]) -> list[Item]:
    model, tokenizer = load_causal_lm(source, ModelSection(ref=SFT)), load_tokenizer(source)
    found = sample(
        model,
        tokenizer,
        list(prompts),
        num_return=NUM_COMPLETIONS,
        max_new_tokens=64,
        temperature=1.0,
        batch_size=256,
        seed=0,
    )
    texts: list[list[str]] = [[] for _ in prompts]
    for completion in found:
        if completion.text.strip() and completion.text not in texts[completion.prompt_index]:
            texts[completion.prompt_index].append(completion.text)
    # rankings of the same size all, so that their number says how much was asked
    return [Item(prompt, tuple(own)) for prompt, own in zip(prompts, texts, strict=True) if len(own) == NUM_COMPLETIONS]


def _read(path: Path) -> list[Item]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Item(row["prompt"], tuple(row["completions"])) for row in rows]


def collect(items: Sequence[Item], judges: Sequence[Judge], *, overlap: int = 1) -> list[Ranking]:
    """What the judges say, by way of a label store, each item judged by `overlap` of them."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Store.open(Path(folder), settings=StoreSettings(gold_share=0)) as store,
    ):
        tasks = [
            NewTask(
                item.prompt,
                [NewResponse(text) for text in item.completions],
                mode="pair" if len(item.completions) == 2 else "rank",
                overlap=overlap,
            )
            for item in items
        ]
        store.add_tasks(tasks, "q")
        answer_queue(store, judges, "q")
        return to_records(store.judgements("q")).rankings


def panel(seed: int, noise: float, **characters: int) -> list[Judge]:
    """The demo's rubric seen by people of these characters."""
    given: dict[Character, int] = dict(characters)  # type: ignore[arg-type]
    return list(make_panel(given, rubric_scores, seed, noise=noise))


def shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    """In an order of the seed's own."""
    order = list(items)
    random.Random(f"items {seed}").shuffle(order)
    return order


def pairs_of(items: Sequence[Item], seed: int) -> list[Item]:
    """Of each item two completions, drawn."""
    draw = random.Random(f"pairs {seed}")
    return [Item(item.prompt, tuple(draw.sample(item.completions, 2))) for item in items]
