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
    imported = sum(each.imported for each in quality.annotators)
    who = [_people(len(quality.annotators) - imported)] if imported < len(quality.annotators) or not imported else []
    notes = [f"by {' and '.join([*who, *([f'{_count(imported)} imported'] if imported else [])])}"]
    if quarantined := sum(each.quarantined for each in quality.annotators):
        notes.append(f"{_count(quarantined)} of them quarantined")
    if simulated := sum(each.simulated for each in quality.annotators):
        notes.append(f"{_count(simulated)} simulated")
    if not num_remaining:
        end = "nothing remains"
    elif pace.end is None:
        end = "years away" if pace.per_hour else "too few answers by people in the last 24 hours to tell"
    else:
        end = "UTC, if it goes on by the clock like this"
    timed = f"of {_count(quality.times.num)} that were timed" if quality.times.num else "no answer was timed"
    return _tiles(
        [
            ("answers", _count(answered), ", ".join(notes)),
            ("answers to come", _count(num_remaining), f"{_count(begun)} {'task' if begun == 1 else 'tasks'} begun"),
            (
                "answers an hour",
                NOTHING if pace.per_hour is None else f"{pace.per_hour:,.1f}",
                _in_how_long(pace),
            ),
            (
                "answers an hour of work",
                NOTHING if pace.per_person_hour is None else f"{pace.per_person_hour:,.0f}",
                "of one person, in the time spent on tasks",
            ),
            ("estimated end", NOTHING if pace.end is None else _moment(pace.end), end),
            ("median time", _seconds(quality.times.median), timed),
        ]
    )


def _in_how_long(pace: Pace) -> str:
    """The answers that the pace was taken from, in how long they came: a day, or less where the first is younger."""
    hours = pace.num_last_day / pace.per_hour if pace.per_hour else 24.0
    span = f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} hours" if hours < 23.95 else "24 hours"
    return f"of all people, by the clock: {_count(pace.num_last_day)} in the last {span}"


def queues(statuses: Sequence[QueueStatus], remaining: dict[str, int], chosen: str | None, num_all: int) -> str:
    """One line a queue; without one, where tasks come from. `chosen`: None for all of the `num_all` queues."""
    if not statuses:
        where = "" if chosen is None else f" in queue {escape(chosen)}"
        option = "" if chosen is None else f" --queue {escape(chosen)}"
        others = f" There are tasks in {_count(num_all)} other {'queue' if num_all == 1 else 'queues'}; choose above."
        add = f"<code>rlhf label add tasks.jsonl{option}</code> queues some."
        return f"<p class='note'>No tasks{where} yet: {add}{others if num_all else ''}</p>"
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


def agreement(quality: Quality, num_gold: int) -> str:
    """Agreement between people, and what it has to beat; what is missing where it cannot be told."""
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
    gold = _gold_note(quality, num_gold)
    if not quality.num_tasks_of_several:
        told = _tiles(tile for tile in tiles if tile[1] != NOTHING)
        return f"<p class='note'>{_no_agreement(quality)}</p>{told}<p class='note'>{gold}</p>"
    note = (
        f"{_count(quality.num_tasks_of_several)} of {_count(quality.num_tasks)} tasks were answered by several people. "
        "Tasks with gold and quarantined annotators are left out. Alpha is 0 for chance and 1 for full agreement; "
        "Krippendorff asks for 0.8, or 0.667 for tentative conclusions, but tastes differ: agreement of 63% to 77% on "
        "pairs is what published preference data have."
    )
    return f"{_tiles(tiles)}<p class='note'>{note}</p><p class='note'>{gold}</p>"


def _no_agreement(quality: Quality) -> str:
    """Why no two people can be compared, and what to do."""
    people = [each for each in quality.annotators if not each.quarantined]
    overlap = "<code>rlhf label add tasks.jsonl --overlap 2</code> asks two people for each task."
    if not quality.annotators:
        return f"No answers yet. Agreement needs tasks that two people have answered: {overlap}"
    if not people:
        return "Everybody who has answered is quarantined, so there is nobody whose agreement could be measured."
    if len(people) == 1:
        who = f"Only {escape(people[0].name)} has answered"
        return (
            f"{who}{' and is not quarantined' if len(quality.annotators) > 1 else ''}: agreement needs two. {overlap}"
        )
    return f"{_people(len(people))} have answered, but no task was answered by two of them: {overlap}"


def _gold_note(quality: Quality, num_gold: int) -> str:
    if any(each.gold.with_ties.num or each.grades[1].exact.num for each in quality.annotators):
        return "Agreement with gold is told for each annotator, below."
    if num_gold:
        return f"Nobody has answered one of the {_count(num_gold)} tasks with gold yet."
    return (
        "No tasks with gold: <code>rlhf label add --gold FILE</code> mixes in tasks whose right answer is known, "
        "and each annotator is measured against them."
    )


def annotator(each: AnnotatorQuality, because: str = "") -> str:
    """One annotator's figures; `because` is why they are quarantined."""
    kinds = (("imported", each.imported), ("simulated", each.simulated), ("quarantined", each.quarantined))
    badges = "".join(f"<span class='badge {name}'>{name}</span>" for name, shown in kinds if shown)
    why = f"<small>{escape(because)}</small>" if because else ""
    first = each.places[0] if each.places else None
    figures = [
        ("answers", _count(each.num_answers), ""),
        *_with_whom(each),
        ("median time", _seconds(each.times.median), "" if each.times.num else "not timed"),
        (
            "first is best",
            NOTHING if first is None else _percent(first.best),
            "places unknown" if first is None else f"chance {100 * first.chance:.0f}%",
        ),
        ("longer is better", _percent(each.longest), _range(each.longest)),
        ("weight", NOTHING if each.reliability is None else f"{each.reliability.weight:.2f}", ""),
    ]
    signals = "".join(f"<li>{escape(signal.text)}</li>" for signal in each.signals)
    return (
        f"<div class='person'><div class='name'><strong>{escape(each.name)}</strong>{badges}{why}</div>"
        f"<dl>{''.join(_figure(*figure) for figure in figures)}</dl>"
        + (f"<ul class='signals'>{signals}</ul>" if signals else "")
        + "</div>"
    )


def _with_whom(each: AnnotatorQuality) -> list[Tile]:
    """Agreement with others and with gold; on grades where there are no pairs."""
    shown = []
    for name, pairs, grades, missing in (
        ("others", each.others.with_ties, each.grades[0].within_one, "no task in common"),
        ("gold", each.gold.with_ties, each.grades[1].within_one, "no gold answered"),
    ):
        if pairs.num or not grades.num:
            shown.append(
                (
                    f"{name} agree{'s' if name == 'gold' else ''}",
                    _percent(pairs),
                    _range(pairs) if pairs.num else missing,
                )
            )
        else:
            shown.append((f"{name} within 1", _percent(grades), _range(grades)))
    return shown


def done(name: str, quarantined: bool, changed: bool, num_answers: int, num_more: int, num_held: int) -> str:
    """What came of a click: whose answers count or not, which tasks others get, and how to undo it.

    Args:
        name: whom it was about.
        quarantined: or released.
        changed: False where somebody else had been faster.
        num_answers: how many answers exports leave out now, or hold again.
        num_more: how many more answers others are asked for; below 0 after a release.
        num_held: how many tasks were taken off the screen.
    """
    who = f"<strong>{escape(name)}</strong>"
    state = "quarantined" if quarantined else "released"
    if not changed:
        return _said(f"{who} was {state} already; nothing has changed.")
    answers = f"{_count(num_answers)} {'answer' if num_answers == 1 else 'answers'}"
    if quarantined:
        parts = [f"{who} is quarantined: {answers} left out of exports"]
        parts.append(f"others are asked for {_count(num_more)} in their place" if num_more else "no task lacks one now")
        if num_held:
            parts.append(f"{_count(num_held)} {'task' if num_held == 1 else 'tasks'} on the screen given back")
        undo, button = f"rlhf label users quarantine {name} --undo", "Release"
    else:
        parts = [f"{who} is released: {answers} in exports again"]
        parts.append(f"others are asked for {_count(-num_more)} fewer" if num_more else "no task needs fewer for it")
        undo, button = f"rlhf label users quarantine {name}", "Quarantine"
    where = f"<a href='#{person_id(name)}'>{button} {escape(name)}</a>"
    return _said(f"{', '.join(parts)}. To undo it, press {where} below, or run <code>{escape(undo)}</code>.")


def person_id(name: str) -> str:
    """The id of somebody's line on the page."""
    return f"person-{name}"


def because(at: datetime, by: str | None, reason: str) -> str:
    """When somebody was quarantined, by whom and why; to be escaped."""
    who = f" by {by}" if by else ""
    return f"since {_moment(at)}{who}" + (f": {reason}" if reason else ", no reason given")


def missing_plots(missing: Iterable[tuple[str, str]]) -> str:
    """The names of plots that cannot be drawn, and what they lack."""
    lines = "".join(f"<li>{name}: {why}</li>" for name, why in missing)
    return f"<div class='note'>Not drawn yet:<ul>{lines}</ul></div>" if lines else ""


def _said(text: str) -> str:
    return f"<p role='status'>{text}</p>"


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
    return {0: "nobody yet", 1: "1 person"}.get(number, f"{_count(number)} people")


def _percent(share: Share) -> str:
    return NOTHING if share.value is None else f"{100 * share.value:.0f}%"


def _range(share: Share) -> str:
    return "" if share.low is None or share.high is None else f"{100 * share.low:.0f}–{100 * share.high:.0f}%"


def _share_note(share: Share, words: str) -> str:
    return f"{_range(share)}; {words}" if share.low is not None else words


def _number(alpha: Alpha) -> str:
    return NOTHING if alpha.value is None else f"{alpha.value:.2f}"


def _alpha_note(alpha: Alpha, words: str) -> str:
    known = alpha.why_no_interval or f"{alpha.low:.2f} to {alpha.high:.2f}"
    return f"{known}; {words}"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def _moment(time: datetime) -> str:
    return f"{time.day} {time:%b}, {time:%H:%M}"
