"""Figures: a grid of pictures, and a table. Imported when something is drawn: matplotlib takes half a second."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

__all__ = ["Panel", "Picture", "TablePicture", "grid", "shortened", "table"]


class Picture(Figure):
    """A figure that a notebook shows by itself, whether or not it was told to show matplotlib's."""

    def _repr_png_(self) -> bytes:
        """Returns the figure as a PNG file; IPython asks for it."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=100)
        return file.getvalue()


class TablePicture(Picture):
    """A picture of a table, which is that table in words too: ``print(dls.show_batch())`` of rows shows them in a terminal.

    Attributes:
        words: the table as text, a line or more a row.
    """

    words = ""

    def __str__(self) -> str:
        return self.words

    __repr__ = __str__


class Panel(NamedTuple):
    """One picture of a grid.

    Attributes:
        title: above it.
        layers: what draws on its axes, one after the other.
        shape: height by width of what is drawn; 0 for a plot, which has axes and any shape.
        color: of the title.
    """

    title: str
    layers: Sequence[Callable[[Any], None]]
    shape: float = 1.0
    color: str = "black"


def shortened(text: str, *, width: int, lines: int) -> list[str]:
    """Returns text in lines of at most `width` characters; what does not fit in so many lines is cut, with an ellipsis.

    >>> shortened("a cat and a dog and an emu", width=12, lines=2)
    ['a cat and a', 'dog and an…']
    """
    # Only the beginning can be shown, and wrapping a whole book would take a while.
    wrapped = [
        piece
        for line in text[: (width + 1) * (lines + 1) * 2].splitlines()
        for piece in textwrap.wrap(line.strip(), width, break_on_hyphens=False) or [""]
    ]
    if len(wrapped) <= lines:
        return wrapped
    return [*wrapped[: lines - 1], wrapped[lines - 1][: width - 1].rstrip() + "…"]


def grid(panels: Sequence[Panel], *, per_sample: int = 1) -> Picture:
    """Returns the panels in a grid, as nearly square as their number allows; those of a sample stay side by side.

    Labelled artists of all panels make one legend below.
    """
    num_samples = len(panels) // per_sample
    columns = per_sample * max(1, int((num_samples / per_sample) ** 0.5 + 0.999))
    columns = min(columns, len(panels)) or 1
    rows = -(-len(panels) // columns)
    shapes = sorted(panel.shape for panel in panels)
    shape = shapes[len(shapes) // 2] if shapes else 1.0
    is_plot = shape == 0
    # Inches. Small pictures of one sample look lost, and many of them fill the screen.
    width = 3.4 if is_plot else 3.2 if len(panels) <= 2 else 2.2
    height = 1.9 if is_plot else width * min(max(shape, 0.4), 1.6)
    titles = [shortened(panel.title, width=int(width * 13), lines=4) for panel in panels]
    title_height = 0.17 * max(map(len, titles), default=0) + 0.06
    figure = Picture(
        figsize=(width * columns, (height + title_height) * rows + 0.1),
        layout=ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.1),
    )
    legend: dict[str, Any] = {}
    for i, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        axes = figure.add_subplot(rows, columns, i + 1)
        if panel.shape:
            axes.axis("off")
        for layer in panel.layers:
            layer(axes)
        # Text is text: a label may have dollar signs, which matplotlib takes for formulas.
        axes.set_title("\n".join(title), fontsize=9, color=panel.color, parse_math=False)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            legend.setdefault(label, handle)
    _add_legend(figure, legend, columns=max(1, int(width * columns / 1.3)))
    return figure


def _add_legend(figure: Figure, legend: Mapping[str, Any], *, columns: int) -> None:
    if not legend:
        return
    labels = list(legend)
    shown = labels if len(labels) <= 24 else labels[:23]
    named = ["".join(shortened(label, width=24, lines=1)) for label in shown]
    if len(shown) < len(labels):
        named[-1] += f" and {len(labels) - len(shown)} more"
    made = figure.legend(
        [legend[label] for label in shown],
        named,
        loc="outside lower center",
        ncols=min(columns, len(shown)),
        fontsize=8,
        frameon=False,
    )
    for text in made.get_texts():
        text.set_parse_math(False)


def table(rows: Sequence[Mapping[str, str]], colors: Sequence[Mapping[str, str]] | None = None) -> TablePicture:
    """Returns a table, a row a sample; long text is wrapped and then cut, and of many columns the first and last stay.

    Args:
        rows: the cells of each row by column; a row may lack some.
        colors: the colours of some cells, by column, for each row.
    """
    colors = colors or [{} for _ in rows]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > _MAX_COLUMNS:
        left_out, half = len(names) - _MAX_COLUMNS + 1, _MAX_COLUMNS // 2
        names = [*names[: half - 1], f"… {left_out} more", *names[-half:]]
    # A header is bold, and by a seventh wider.
    widths = [
        _width_of([name + " " * (len(name) // 7 + 1), *(row.get(name, "") for row in rows)], len(names))
        for name in names
    ]
    header = [shortened(name, width=width, lines=3) for name, width in zip(names, widths, strict=True)]
    wrapped = [
        [shortened(row.get(name, ""), width=width, lines=5) for name, width in zip(names, widths, strict=True)]
        for row in rows
    ]
    heights = [max([1, *map(len, cells)]) for cells in [header, *wrapped]]
    # Inches: a line of text, a character of it, and the air around a cell.
    line, character, air = 0.17, 0.074, 0.16
    width = sum(widths) * character + air * (len(names) + 1)
    height = sum(heights) * line + air * (len(heights) + 1)
    figure = TablePicture(figsize=(width, height))
    figure.words = _in_words(header, wrapped, widths)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    top = air
    for number, (cells, num_lines) in enumerate(zip([header, *wrapped], heights, strict=True)):
        left = air
        for name, cell, column in zip(names, cells, widths, strict=True):
            for place, text in enumerate(cell):  # line by line: so that the cells of a row share their base lines
                axes.text(
                    left,
                    top + place * line + 0.75 * line,
                    text,
                    fontsize=9,
                    va="baseline",
                    weight="bold" if number == 0 else "normal",
                    color="black" if number == 0 else colors[number - 1].get(name, "black"),
                    parse_math=False,
                )
            left += column * character + air
        top += num_lines * line + air
        axes.axhline(top - air / 2, color="black" if number == 0 else "lightgray", linewidth=0.6)
    return figure


def _in_words(header: list[list[str]], rows: list[list[list[str]]], widths: list[int]) -> str:
    """Returns a table as text; a cell is its lines."""
    lines = []
    for number, cells in enumerate([header, *rows]):
        for texts in zip_longest(*cells, fillvalue=""):
            padded = (text.ljust(width) for text, width in zip(texts, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        if number == 0:
            lines.append("─" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(lines)


_MAX_COLUMNS = 14


def _width_of(texts: Sequence[str], num_columns: int) -> int:
    """Returns how many characters a column is wide: as its longest text, but not so wide that the others have no place."""
    most = 70 if num_columns <= 3 else 36 if num_columns <= 6 else 16
    return min(max(3, *(len(line) for text in texts for line in (text[:500].splitlines() or [""]))), most)
