"""A report as one self-contained HTML file: no script, no font, no picture comes from anywhere else.

Whatever a model or an annotator wrote is hostile until proven otherwise: the template escapes everything but the
figures we draw, and the page's own policy forbids scripts and requests.
"""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.report.data import as_json
from rlhf.report.metrics import duration, format_value, signed
from rlhf.report.model import Comparison, Report
from rlhf.report.readable import visible
from rlhf.tracking.metrics import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_MAX_SAMPLE_CHARACTERS = 4000
_MAX_DIFF_WORDS = 600
_MIN_SIMILARITY = 0.35
"""Below this the two texts have little in common, and marking nearly every word would help nobody."""


def write_report(path: Path, report: Report) -> None:
    """Write `report` to `path`, and its figures as JSON beside it (`report.json`), each wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, render(report).encode())
    write_atomically(path.with_suffix(".json"), as_json(report).encode())


def render(report: Report) -> str:
    """`report` as HTML."""
    folder = Path(__file__).parent
    page = _environment(folder).get_template("report.html.jinja")
    return page.render(
        report=report,
        style=(folder / "report.css").read_text(encoding="utf-8"),
        environment=environment_rows(report.environment),
        packages=report.environment.get("packages") or {},
    )


def _environment(folder: Path) -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
    )
    environment.filters |= {
        "drawing": Markup,  # figures drawn by `plots`, and the style sheet beside this file
        "duration": duration,
        "coded": coded,
        "signed": signed,
        "percent": lambda value: format_value("win_rate", value),
    }
    environment.globals |= {"word_diff": word_diff, "bar": comparison_bar}
    return environment


def coded(text: str) -> "Markup":
    """`text` with what stands between backticks as code."""
    from markupsafe import Markup, escape

    parts = visible(text).split("`")
    if len(parts) % 2 == 0:  # one backtick has no partner
        parts[-2:] = [f"{parts[-2]}`{parts[-1]}"]
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def word_diff(before: str, after: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Both texts in pieces, each with whether it differs from the other text.

    Nothing is marked where the texts are long or have little in common. Joined, the pieces give the texts back (up
    to the length that a report shows).
    """
    before, after = (_shorten(text) for text in (before, after))
    old, new = (re.findall(r"\w+|\s+|[^\w\s]", text) for text in (before, after))
    if max(len(old), len(new)) > _MAX_DIFF_WORDS:
        return [(before, False)], [(after, False)]
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    if matcher.ratio() < _MIN_SIMILARITY:
        return [(before, False)], [(after, False)]
    left: list[tuple[str, bool]] = []
    right: list[tuple[str, bool]] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if i2 > i1:
            left.append(("".join(old[i1:i2]), tag != "equal"))
        if j2 > j1:
            right.append(("".join(new[j1:j2]), tag != "equal"))
    return left, right


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SAMPLE_CHARACTERS else text[:_MAX_SAMPLE_CHARACTERS] + " […]"


def comparison_bar(comparison: Comparison) -> dict[str, str]:
    """Where the bar of a comparison ends and its interval lies, in per cent of its width."""
    low, high = (min(max(bound, 0.0), 1.0) for bound in comparison.interval)
    return {
        "rate": f"{100 * min(max(comparison.win_rate, 0.0), 1.0):.2f}",
        "low": f"{100 * low:.2f}",
        "width": f"{100 * max(high - low, 0.0):.2f}",
    }


def environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The environment in a few lines: machine, Python, commit, and a digest that is equal for equal packages."""
    rows: list[tuple[str, str]] = []
    if "python" in environment:
        rows.append(("Python", f"{environment['python']} on {environment.get('platform', '?')}"))
    cpu = environment.get("cpu")
    if isinstance(cpu, Mapping):
        rows.append(("Processor", f"{cpu.get('model')}, {cpu.get('cores')} cores, {cpu.get('memory_gib')} GiB"))
    gpus = environment.get("gpus")
    if gpus:
        rows.append(("Accelerators", "; ".join(f"{gpu['name']}, {gpu['memory']}" for gpu in gpus)))
    for key, label in (("git", "Commit"), ("rlhf", "Framework")):
        state = environment.get(key)
        if isinstance(state, Mapping) and (state.get("commit") or state.get("version")):
            parts = [state.get("version"), str(state.get("commit") or "")[:12]]
            changed = ", with uncommitted changes" if state.get("dirty") else ""
            rows.append((label, " ".join(part for part in parts if part) + changed))
    packages = environment.get("packages")
    if packages:
        digest = hashlib.sha256(json.dumps(packages, sort_keys=True).encode()).hexdigest()[:12]
        rows.append(("Packages", f"{len(packages)}, digest {digest}"))
    if environment.get("resumed"):
        rows.append(("Resumed", f"{len(environment['resumed'])} times"))
    return rows
