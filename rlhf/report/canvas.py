"""What every figure of a report is drawn on: one size, one style, colours that follow the page, harmless SVG.

The SVG takes its colours and its font from the page (`var(--line-1)` and so on), so it follows light and dark;
it carries no scripts, no links and no names of outside addresses.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLOURS = {
    "--line-1": "#2f5d8c",
    "--line-2": "#c2692a",
    "--line-3": "#4d7f57",
    "--line-4": "#7d56a0",
    "--line-5": "#1a8793",
    "--line-6": "#b5446e",
    "--ink": "#1c2127",
    "--muted": "#5e6873",
    "--rule": "#dfe3e8",
    "--bad": "#b3261e",
    "--paper": "#fefefe",
}
"""What the page calls a colour, and what it is in a PNG; no two are equal: `inline_svg` tells them apart by value."""

INK, MUTED, RULE, BAD, PAPER = (COLOURS[f"--{name}"] for name in ("ink", "muted", "rule", "bad", "paper"))
LINES = tuple(COLOURS[f"--line-{number}"] for number in range(1, 7))

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rlhf",
    "font.size": 9.5,
    "font.family": "DejaVu Sans",
    "hatch.linewidth": 0.6,
    "text.parse_math": False,  # a dollar sign in somebody's text is a dollar sign
}


@contextmanager
def canvas(height: float = 3.0) -> Iterator[tuple["Figure", "Axes"]]:
    """A figure with its axes, `height` inches high; without pyplot, which keeps every figure until it is closed."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A text in letters that the font lacks is drawn by the browser's in the page, and as boxes in a PNG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(5.6, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.subplots()


def style_axes(axes: "Axes", x: str, y: str, *, grid: Sequence[str] = ("y",)) -> None:
    """Name the axes `x` and `y`; thin lines across `grid` alone, and a frame only where the axis without is."""
    axes.set_xlabel(x, color=MUTED)
    axes.set_ylabel(y, color=MUTED)
    axes.tick_params(colors=MUTED, length=0)
    axes.grid(axis="both" if len(grid) == 2 else "x" if "x" in grid else "y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    shown = {"x": ("left",), "y": ("bottom",)}.get("".join(grid), ("left", "bottom"))
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side in shown)
        axes.spines[side].set_color(RULE)


_SHARES = ("share", "accuracy", "win rate", "confidence")


def show_shares(axis: "Axis", label: str) -> None:
    """Write the ticks of an axis of shares as percentages."""
    if is_share(label):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.4g}%")


def is_share(label: str) -> bool:
    """Whether an axis shows shares, to be written as percentages: told by how its label begins."""
    return label.lower().startswith(_SHARES)


def add_legend(figure: "Figure", axes: "Axes") -> None:
    """Name what is drawn if there are two things: above the axes, never on them."""
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        legend = figure.legend(
            handles,
            labels,
            frameon=False,
            labelcolor=INK,
            fontsize=9,
            loc="outside upper left",
            ncols=3 if max(map(len, labels)) <= 24 else 2 if max(map(len, labels)) <= 36 else 1,
            handlelength=2.4 if len(handles) > 3 else 1.6,
            columnspacing=1.6,
            borderaxespad=0.1,
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1)  # one point is paler than the cloud it stands for


def add_title(figure: "Figure", title: str) -> None:
    """A heading for a figure that stands alone, above its legend; the axes stay as high as they were."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.25)
    if figure.legends:  # a legend and a title of the figure would both take the upper left corner
        legend = figure.legends[0]
        legend.set_title(title)
        legend.get_title().set_fontsize(11)
        legend.get_title().set_color(INK)
        legend.set_alignment("left")
    else:
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontsize=11)


def save_png(figure: "Figure", path: Any) -> None:
    """Write `figure` as a picture on white."""
    figure.savefig(path, dpi=160, facecolor="white")


def inline_svg(figure: "Figure") -> str:
    """`figure` as an element of a page: no prologue, namespaces or fixed size, the page's colours and font.

    Its ids begin with a digest of what is drawn, so that no two figures of a page share one.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    head, rest = text.split(">", 1)
    view_box = re.search(r'viewBox="[^"]*"', head)
    assert view_box is not None, "matplotlib writes a viewBox"
    name = "f" + hashlib.sha256(rest.encode()).hexdigest()[:10]
    rest = re.sub(r"<[^>]*>", lambda tag: _for_page(tag[0], name), rest)
    # The page labels the figure that holds it.
    return f'<svg {view_box[0]} class="curve" aria-hidden="true">{rest}'.strip()


def _for_page(tag: str, name: str) -> str:
    """One tag of matplotlib's SVG for the page. Only tags are changed: what stands between them is people's text."""
    tag = tag.replace("xlink:href", "href")
    tag = re.sub(r'\bid="', f'id="{name}-', tag)
    tag = re.sub(r'href="#', f'href="#{name}-', tag)
    tag = re.sub(r"url\(#", f"url(#{name}-", tag)
    tag = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", tag)
    tag = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", tag)
    for variable, colour in COLOURS.items():
        tag = tag.replace(colour, f"var({variable})")
    return tag
