"""The figures of the dashboard as HTML: numbers, names of queues and people, and words of our own, all escaped."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from labeling_app.quality import Alpha, AnnotatorQuality, Pace, Quality, Share
from labeling_app.store import QueueStatus

NOTHING = "–"

Tile = tuple[str, str, str]
"""What it is, the figure, what to know of it."""


def overview(statuses: Sequence[QueueStatus], num_remaining: int, quality: Quality, pace: Pace) -> str:
    """The state of the work in tiles."""
    answered = sum(status.num_answers for status in statuses)
    begun = sum(status.num_in_progress for status in statuses)
    notes = [f"by {_people(len(quality.annotators))}"]
    if quarantined := sum(each.quarantined for each in quality.annotators):
        notes.append(f"{_count(quarantined)} of them quarantined")
    if simulated := sum(each.simulated for each in quality.annotators):
        notes.append(f"{_count(simulated)} simulated")
    per_person = "" if pace.per_person_hour is None else f"{pace.per_person_hour:,.0f} an hour of work"
    end = "UTC, at the pace of the last 24 hours" if num_remaining else "nothing remains"
    return _tiles(
        [
            ("answers", _count(answered), ", ".join(notes)),
            ("answers to come", _count(num_remaining), f"{_count(begun)} {'task' if begun == 1 else 'tasks'} begun"),
            (
                "answers an hour",
                NOTHING if pace.per_hour is None else f"{pace.per_hour:,.1f}",
                f"{_count(pace.num_last_day)} in 24 hours" + (f"; {per_person}" if per_person else ""),
            ),
            ("estimated end", NOTHING if pace.end is None else _moment(pace.end), end),
            ("median time", _seconds(quality.times.median), f"of {_count(quality.times.num)} that were timed"),
        ]
    )


def queues(statuses: Sequence[QueueStatus], remaining: dict[str, int]) -> str:
    """One line a queue."""
    if not statuses:
        return "<p class='note'>No tasks yet: <code>rlhf label add</code> queues some.</p>"
    head = ("queue", "tasks", "done", "begun", "untouched", "skipped by all", "answers to come", "gold", "withdrawn")
    rows = [
        (
            escape(each.queue),
            *(_count(number) for number in (each.num_tasks, each.num_done, each.num_in_progress, each.num_open)),
            _count(each.num_skipped_by_all),
            _count(remaining.get(each.queue, 0)),
            *(_count(number) for number in (each.num_gold, each.num_withdrawn)),
        )
        for each in statuses
    ]
    return _table(head, rows)


def agreement(quality: Quality) -> str:
    """Agreement between people, and what it has to beat."""
    with_ties, strict = quality.pairwise.with_ties, quality.pairwise.strict
    tiles = [
        (
            "alpha of orders",
            _number(quality.alpha_places),
            _alpha_note(quality.alpha_places, "Krippendorff's, ordinal"),
        ),
        (
            "alpha of pairs",
            _number(quality.alpha_pairs),
            _alpha_note(quality.alpha_pairs, "nominal: one, other or tie"),
        ),
        ("two people agree", _percent(with_ties), _share_note(with_ties, "a tie is half an agreement")),
        ("without ties", _percent(strict), _share_note(strict, "pairs that both have ordered")),
        ("longest wins", _percent(quality.longest), _share_note(quality.longest, "what judgement has to beat")),
    ]
    if quality.alpha_grades.num_units:
        note = _alpha_note(quality.alpha_grades, "Krippendorff's, ordinal")
        tiles.insert(2, ("alpha of grades", _number(quality.alpha_grades), note))
    if not quality.num_tasks_of_several:
        note = "No task was answered by two people yet, so there is no agreement to measure: give tasks an overlap."
        return f"{_tiles(tiles)}<p class='note'>{note}</p>"
    note = (
        f"{_count(quality.num_tasks_of_several)} of {_count(quality.num_tasks)} tasks were answered by several people. "
        "Tasks with gold and quarantined annotators are left out. Alpha is 0 for chance and 1 for full agreement; "
        "Krippendorff asks for 0.8, or 0.667 for tentative conclusions, but tastes differ: agreement of 63% to 77% on "
        "pairs is what published preference data have."
    )
    return f"{_tiles(tiles)}<p class='note'>{note}</p>"


def annotator(each: AnnotatorQuality) -> str:
    """One annotator's figures."""
    badges = "".join(
        f"<span class='badge {name}'>{name}</span>"
        for name, shown in (("simulated", each.simulated), ("quarantined", each.quarantined))
        if shown
    )
    first = each.places[0] if each.places else None
    figures = [
        ("answers", _count(each.num_answers), ""),
        *_with_whom(each),
        ("median time", _seconds(each.times.median), ""),
        (
            "first is best",
            NOTHING if first is None else _percent(first.best),
            "" if first is None else f"chance {100 * first.chance:.0f}%",
        ),
        ("longer is better", _percent(each.longest), _range(each.longest)),
        ("weight", NOTHING if each.reliability is None else f"{each.reliability.weight:.2f}", ""),
    ]
    signals = "".join(f"<li>{escape(signal.text)}</li>" for signal in each.signals)
    return (
        f"<div class='person'><div class='name'><strong>{escape(each.name)}</strong>{badges}</div>"
        f"<dl>{''.join(_figure(*figure) for figure in figures)}</dl>"
        + (f"<ul class='signals'>{signals}</ul>" if signals else "")
        + "</div>"
    )


def _with_whom(each: AnnotatorQuality) -> list[Tile]:
    """Agreement with others and with gold; on grades where there are no pairs."""
    shown = []
    for name, pairs, grades in (
        ("others", each.others.with_ties, each.grades[0].within_one),
        ("gold", each.gold.with_ties, each.grades[1].within_one),
    ):
        if pairs.num or not grades.num:
            shown.append((f"agrees with {name}", _percent(pairs), _range(pairs)))
        else:
            shown.append((f"within 1 of {name}", _percent(grades), _range(grades)))
    return shown


def _figure(name: str, value: str, note: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>"


def _tiles(tiles: Iterable[Tile]) -> str:
    return f"<dl class='tiles'>{''.join(_figure(*tile) for tile in tiles)}</dl>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    names = "".join(f"<th>{name}</th>" for name in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='wide'><table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>"


def _count(number: int) -> str:
    return f"{number:,}"


def _people(number: int) -> str:
    return "1 person" if number == 1 else f"{_count(number)} people"


def _percent(share: Share) -> str:
    return NOTHING if share.value is None else f"{100 * share.value:.0f}%"


def _range(share: Share) -> str:
    return "" if share.low is None or share.high is None else f"{100 * share.low:.0f}–{100 * share.high:.0f}%"


def _share_note(share: Share, words: str) -> str:
    return f"{_range(share)}; {words}" if share.low is not None else words


def _number(alpha: Alpha) -> str:
    return NOTHING if alpha.value is None else f"{alpha.value:.2f}"


def _alpha_note(alpha: Alpha, words: str) -> str:
    return words if alpha.low is None or alpha.high is None else f"{alpha.low:.2f} to {alpha.high:.2f}; {words}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _moment(time: datetime) -> str:
    return f"{time.day} {time:%b}, {time:%H:%M}"
