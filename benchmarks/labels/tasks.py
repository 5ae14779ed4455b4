"""Made-up questions of the usual size: four completions of a paragraph or two, in Markdown."""

import random
from collections.abc import Iterator

from labeling_app.store import NewResponse, NewTask

OVERLAP = 3
NUM_GOLD = 50

SENTENCES = (
    "the order was sent again after a refund because our driver could not find your door and we are sorry for this "
    "delay please reply with photo or number so that someone can look into it today **really** `tracking` *soon*"
)


def new_tasks(num_answers: int, num_annotators: int, seed: int) -> Iterator[NewTask]:
    """As many as `num_answers` need, and two for each annotator more: at the end somebody may have had all others."""
    rng = random.Random(seed)
    for number in range(-(-num_answers // OVERLAP) + 2 * num_annotators):
        yield _task(rng, f"Question {number}")
    for number in range(NUM_GOLD):
        yield _task(rng, f"Known {number}", gold={"tiers": [[0], [1, 2], [3]]})


def _task(rng: random.Random, title: str, **options: object) -> NewTask:
    completions = [NewResponse(_text(rng, 100), model=f"model-{letter}") for letter in "abcd"]
    return NewTask(f"{title}: {_text(rng, 30)}?", completions, overlap=OVERLAP, **options)


def _text(rng: random.Random, num_words: int) -> str:
    words = rng.choices(SENTENCES.split(), k=num_words)
    return f"{' '.join(words[: num_words // 2])}\n\n- {' '.join(words[num_words // 2 : -5])}\n- {' '.join(words[-5:])}"
