"""Showing: every type with every other, in words, tables and plots; images are in `vision/test_show.py`."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dist_ai.core import (
    SemanticTensor,
    TabularRow,
    TensorCategory,
    TensorLMText,
    TensorMultiCategory,
    TensorRegression,
    TensorSeries,
    TensorText,
)
from dist_ai.core.figures import Panel, Picture, grid, shortened, table
from dist_ai.core.show import draw, show_batch, show_results, words

WAVE = torch.sin(torch.linspace(0, 6, 50))
ROWS = TabularRow(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0.5, 1.5], [2.5, 3.5]]))

# For each type a batch of two and the two samples decoded.
INPUTS: dict[str, tuple[Any, list[Any]]] = {
    "series": (TensorSeries(WAVE.expand(2, 3, 50)), [WAVE.expand(3, 50)] * 2),
    "text": (TensorText(torch.zeros(2, 4, dtype=torch.int64)), ["a short one", "and another"]),
    "tokens": (TensorText(torch.zeros(2, 4, dtype=torch.int64)), [["xxbos", "hi"], ["xxbos", "ho"]]),
    "language": (TensorLMText(torch.arange(8).view(2, 4)), list(torch.arange(8).view(2, 4))),
    "row": (ROWS, [TabularRow(ROWS.cats[i], ROWS.conts[i]) for i in range(2)]),
    "decoded row": (ROWS, [{"age": 31, "work": "state", "gain": None}, {"age": 40, "work": "own", "gain": 2.5}]),
    "tensor": (torch.rand(2, 3, 4), list(torch.rand(2, 3, 4))),
    "dict": ({"a": torch.rand(2)}, [{"a": torch.tensor(0.5)}, {"a": torch.tensor(1.5)}]),
}
TARGETS: dict[str, tuple[Any, list[Any]]] = {
    "category": (TensorCategory(torch.tensor([0, 1])), ["cat", "dog"]),
    "category of numbers": (TensorCategory(torch.tensor([0, 1])), [3, 4]),
    "multi": (TensorMultiCategory(torch.eye(2)), [["cat", "dog"], []]),
    "number": (TensorRegression([1.0, 2.0]), [1.0, 2.0]),
    "numbers": (TensorRegression([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
    "forecast": (TensorSeries(WAVE[:9].expand(2, 3, 9)), [WAVE[:9].expand(3, 9)] * 2),
    "text": (TensorText(torch.zeros(2, 4, dtype=torch.int64)), ["ein kurzer", "und noch einer"]),
    "tensor": (torch.rand(2, 5), list(torch.rand(2, 5))),
    "none": (None, []),
}


def pixels(figure: Any) -> Any:
    """Returns the figure drawn: (height, width, 4), 0..255."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return np.asarray(Image.open(file))


def texts(figure: Any) -> list[str]:
    """Returns what a table says, line by line."""
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.mark.parametrize(("given", "wanted"), list(itertools.product(INPUTS, TARGETS)))
def test_every_input_is_shown_with_every_target_and_with_every_prediction(given: str, wanted: str) -> None:
    x, inputs = INPUTS[given]
    y, targets = TARGETS[wanted]
    samples = [tuple(each) for each in zip(inputs, targets, strict=True)] if targets else [(each,) for each in inputs]
    figure = show_results(x, y, samples, targets[::-1]) if targets else show_batch(x, y, samples)
    assert pixels(figure).std() > 5  # there is something on it
    assert show_batch(x, y, samples).axes


def test_a_table_has_a_row_for_each_sample_and_columns_for_what_has_several() -> None:
    (x, inputs), (y, targets) = INPUTS["decoded row"], TARGETS["category"]
    figure = show_batch(x, y, list(zip(inputs, targets, strict=True)))
    assert texts(figure) == ["age", "work", "gain", "target", "31", "state", "cat", "40", "own", "2.5", "dog"]
    x, inputs = INPUTS["row"]
    header, *rows = (
        ["cats 0", "cats 1", "conts 0", "conts 1", "target"],
        ["1", "2", "0.5", "1.5", "cat"],
        ["3", "4", "2.5", "3.5", "dog"],
    )
    assert texts(show_batch(x, y, list(zip(inputs, targets, strict=True)))) == [*header, *rows[0], *rows[1]]


def test_in_a_table_what_is_right_is_green_and_what_is_wrong_is_red() -> None:
    x, inputs = INPUTS["text"]
    for (y, targets), guesses in ((TARGETS["category"], ["cat", "cat"]), (TARGETS["multi"], [["cat", "dog"], ["cat"]])):
        figure = show_results(x, y, list(zip(inputs, targets, strict=True)), guesses)
        said = [text.get_text() for text in figure.axes[0].texts]
        assert said[:3] == ["input", "target", "prediction"]
        colors = [text.get_color() for text in figure.axes[0].texts[3:]]
        assert [color for color in colors if color != "black"] == ["green", "tab:red"]
    y, targets = TARGETS["number"]  # a number is not simply right or wrong
    figure = show_results(x, y, list(zip(inputs, targets, strict=True)), [1.0, 5.0])
    assert {text.get_color() for text in figure.axes[0].texts} == {"black"}


def test_a_long_text_is_wrapped_and_ends_in_an_ellipsis_and_no_label_is_a_formula() -> None:
    x, _ = INPUTS["text"]
    y, _ = TARGETS["category"]
    figure = show_batch(
        x, y, [("it was the best of times " * 10_000, "$x_{$"), ("costs $5 or \\frac $6\nor more", "b")]
    )
    said = texts(figure)
    assert said[6].endswith("…")
    assert all(len(line) <= 70 for line in said)
    assert "costs $5 or \\frac $6" in said
    assert figure.get_size_inches()[0] < 8
    assert pixels(figure).std() > 5
    plot = show_batch(INPUTS["series"][0], y, [(WAVE[None], "$\\frac{$ and $")])
    assert plot.axes[0].get_title() == "$\\frac{$ and $"
    assert pixels(plot).std() > 5


def test_of_a_hundred_columns_the_first_and_the_last_are_shown() -> None:
    [figure] = [table([{f"column {i}": str(i) for i in range(100)}])]
    header = texts(figure)[:14]
    assert header[:2] + header[5:9] == ["column 0", "column 1", "column 5", "… 87 more", "column 93", "column 94"]
    assert header[-1] == "column 99"


def test_series_are_lines_with_gaps_where_numbers_are_missing_and_seconds_below() -> None:
    series = WAVE.repeat(2, 1)
    series[0, 10:20] = float("nan")
    batch = TensorSeries(series[None], rate=10)
    figure = show_batch(batch, TARGETS["category"][0], [(series, "up")])
    [axes] = figure.axes
    assert axes.get_title() == "up"
    first, second = axes.lines
    assert np.isnan(first.get_ydata()).sum() == 10
    assert not np.isnan(second.get_ydata()).any()
    assert first.get_xdata()[-1] == pytest.approx(4.9)
    nothing = TensorSeries(torch.full((1, 1, 5), float("nan")))
    assert pixels(show_batch(nothing, None, [(nothing[0],)])).shape[2] == 4
    assert len(show_batch(batch, None, [(torch.rand(30, 50),)]).axes[0].lines) == 8  # more could not be told apart


def test_a_forecast_goes_on_where_the_series_ends_and_the_prediction_lies_on_the_same_axes() -> None:
    x, y = TensorSeries(WAVE.view(1, 1, 50)), TensorSeries(WAVE[:9].view(1, 1, 9))
    figure = show_results(x, y, [(x[0], y[0])], [y[0] + 1])
    [axes] = figure.axes
    before, target, prediction = axes.lines
    assert before.get_xdata().tolist() == list(range(50))
    assert target.get_xdata().tolist() == prediction.get_xdata().tolist() == list(range(50, 59))
    assert np.allclose(prediction.get_ydata() - target.get_ydata(), 1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["target", "prediction"]


def test_several_inputs_stand_side_by_side_under_one_caption() -> None:
    (x, inputs), (y, targets) = INPUTS["series"], TARGETS["category"]
    text, said = INPUTS["text"]
    samples = list(zip(inputs, inputs, said, targets, strict=True))
    figure = show_batch((x, x, text), y, samples)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["a short one\ncat\ninput 0", "input 1", "and another\ndog\ninput 0", "input 1"]


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.tensor(3), "3"),
        (torch.tensor([0.5, float("nan")]), "0.5, nan"),
        (torch.zeros(0, 4), "0 × 4 float32"),
        (torch.arange(20.0).view(4, 5), "4 × 5 float32, 0 to 19"),
        (torch.full((3, 4), float("inf")), "3 × 4 float32, 12 not finite"),
        (torch.ones(3, 4, dtype=torch.bool), "3 × 4 bool, 1 to 1"),
        (torch.ones(2, dtype=torch.complex64), "2 complex64"),
        (torch.eye(3).to_sparse(), "3 × 3 float32, 0 to 1"),
        (torch.empty(3, 3, device="meta"), "3 × 3 float32"),
        (torch.ones(3, 3, dtype=torch.bfloat16), "3 × 3 bfloat16, 1 to 1"),
    ],
)
def test_any_tensor_is_said_in_a_few_words(tensor: torch.Tensor, said: str) -> None:
    assert words(tensor, tensor) == said


class Molecule(SemanticTensor):
    """A type of a user's own."""


def test_a_type_of_ones_own_is_said_once_and_shown_with_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for dispatch in (words, draw):
        monkeypatch.setattr(dispatch, "_implementations", dict(dispatch._implementations))
        monkeypatch.setattr(dispatch, "_chosen", {})
    words.register(Molecule)(lambda like, value: f"H{int(value.sum())}O")
    molecules = Molecule(torch.ones(2, 2))
    y, targets = TARGETS["category"]
    samples = list(zip(molecules, targets, strict=True))
    assert texts(show_batch(molecules, y, samples))[2:] == ["H2O", "cat", "H2O", "dog"]
    draw.register(Molecule)(lambda like, value, axes: axes.plot(value))
    assert [axes.get_title() for axes in show_batch(molecules, y, samples).axes] == ["cat", "dog"]
    show_batch.register(Molecule, TensorCategory)(lambda x, y, samples: "a picture of its own")
    try:
        assert show_batch(molecules, y, samples) == "a picture of its own"
    finally:
        del show_batch._implementations[Molecule, TensorCategory]
        show_batch._chosen.clear()
    assert "takes anything" in show_batch.explain(TensorText, TensorCategory)


# ------------------------------------------------------------------------------------------------ figures


def test_a_figure_shows_itself_in_a_notebook_and_saves_itself_in_a_script(tmp_path: Path) -> None:
    figure = table([{"a": "1"}])
    assert isinstance(figure, Picture)
    assert figure._repr_png_().startswith(b"\x89PNG")
    figure.savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size[0] > 20


def test_a_grid_is_nearly_square_and_a_samples_panels_stay_in_one_row() -> None:
    def shape(num: int, per_sample: int) -> tuple[int, int]:
        spec = grid([Panel("", [])] * num * per_sample, per_sample=per_sample).axes[0].get_subplotspec().get_gridspec()
        return spec.nrows, spec.ncols

    assert [shape(n, 1) for n in (1, 2, 5, 9)] == [(1, 1), (1, 2), (2, 3), (3, 3)]
    assert [shape(n, 2) for n in (1, 4, 9)] == [(1, 2), (2, 4), (3, 6)]
    assert shape(3, 3) == (3, 3)


def test_titles_are_cut_to_what_their_panels_hold_and_do_not_overlap() -> None:
    figure = grid([Panel("a name of many words " * 30, [lambda axes: axes.plot([1, 2])])] * 6)
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    others = [axes.get_window_extent() for axes in figure.axes]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(a.overlaps(b) for a in boxes for b in others)
    assert all(len(axes.get_title().splitlines()) == 4 for axes in figure.axes)


def test_text_is_shortened_at_words_and_one_long_word_anywhere() -> None:
    assert shortened("", width=5, lines=2) == []
    assert shortened("x" * 12, width=5, lines=2) == ["xxxxx", "xxxx…"]
    assert shortened("one\n\ntwo", width=5, lines=3) == ["one", "", "two"]
