"""Plain text, cut into documents and these into pieces a model can take."""

import re
from collections.abc import Iterator

_DOCUMENT_BORDER = re.compile(r"\n[ \t]*\n[ \t]*\n\s*|\s*\f\s*")
_PARAGRAPH_BORDER = re.compile(r"\n[ \t]*\n")
_SENTENCE_END = re.compile(r"[.!?]['\"”’)]*\s|\n")


def cut_text(text: str, chunk_chars: int | None) -> Iterator[tuple[int, str]]:
    """Pieces of `text`, and the line each begins on.

    Documents are parted by two blank lines or a form feed, and cut into runs of whole paragraphs of at most
    `chunk_chars` characters; a paragraph that is longer is cut at the end of a sentence.
    """
    line, counted = 1, 0
    for start, end in _spans(text, 0, len(text), _DOCUMENT_BORDER):
        for first, last in _chunks(text, start, end, chunk_chars):
            line, counted = line + text.count("\n", counted, first), first
            yield line, text[first:last]


def _spans(text: str, start: int, end: int, border: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    for match in border.finditer(text, start, end):
        if text[start : match.start()].strip():
            yield start, match.start()
        start = match.end()
    if text[start:end].strip():
        yield start, end


def _chunks(text: str, start: int, end: int, limit: int | None) -> Iterator[tuple[int, int]]:
    if limit is None or end - start <= limit:
        yield start, end
        return
    open_at: int | None = None
    open_end = start
    for first, last in _spans(text, start, end, _PARAGRAPH_BORDER):
        if open_at is not None and last - open_at <= limit:
            open_end = last
            continue
        if open_at is not None:
            yield open_at, open_end
        while last - first > limit:
            cut = max((match.end() for match in _SENTENCE_END.finditer(text, first, first + limit)), default=0)
            cut = cut or text.rfind(" ", first, first + limit) + 1 or first + limit
            yield first, cut
            first = cut
        open_at, open_end = (first, last) if first < last else (None, last)
    if open_at is not None:
        yield open_at, open_end
