"""Showing: a type says once how it is looked at, and then it is shown beside every other.

A sample is made of elements: inputs, then targets. The type that an element has in the batch says how it is shown:

- as a *picture* on axes of its own (`draw`): an image, a mask, a series;
- *over* the picture of the first input (`draw_over`): a mask, points, boxes, what comes after a series;
- in *words* (`words`), which every value has: above the pictures where there are some, else as a row of a table.

```python
@words.register(Molecule)
def _(like, value):  # the element as it is in the batch, and this sample's, decoded
    return value.formula
```

What a pair of types needs beyond that is an implementation of its own of `show_batch` or `show_results`. Matplotlib is
imported when something is drawn, and not before. A figure shows itself in a notebook, and one that is a table of words also
where it is printed, as in a terminal; a script calls its ``savefig("batch.png")``, and TensorBoard takes it as it is:
``writer.add_figure("batch", dls.show_batch(), step)``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.types import TensorCategory, TensorMultiCategory, TensorSeries, TensorText, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_ai.core.figures import Panel

__all__ = ["can_be_drawn", "draw", "draw_over", "show_batch", "show_results", "together", "words"]

show_batch = Dispatch("show_batch", arity=2)
"""(input, target, samples) -> Figure. Input and target are the batch's, a tuple where there are several and None where there
is none; a sample is a tuple of its decoded inputs and targets."""

show_results = Dispatch("show_results", arity=2)
"""(input, target, samples, predictions) -> Figure: as `show_batch`, and the decoded prediction of each sample's first target,
or a tuple of those of its targets."""

words = Dispatch("words")
"""(element of the batch, decoded value of a sample) -> what it is, as text."""

draw = Dispatch("draw")
"""(element of the batch, decoded value of a sample, axes) -> None: draws it on axes of its own."""

draw_over = Dispatch("draw_over", arity=2)
"""(input of the batch, other element of the batch, the input's decoded value, the other's, axes, name) -> None: draws the
other over the picture of the input; the name is "target" or "prediction"."""

together = Dispatch("together", arity=2)
"""(element of the batch, the next one) -> the class (a named tuple) of both that is shown in their place, such as boxes with
labels."""


def can_be_drawn(value: Any, over: Any = None) -> bool:
    """Returns whether a value has a picture: one of its own, or one over that of another value; else there are words for it."""
    return draw.find(type(value)) is not None or draw_over.find(type(over), type(value)) is not None


class _Element(NamedTuple):
    """One element of a sample.

    Attributes:
        name: "input", "target" or "prediction", numbered where there are several.
        like: the element of the batch; its type says how it is shown.
        value: the sample's, decoded.
    """

    name: str
    like: Any
    value: Any

    @property
    def text(self) -> str:
        return str(words(self.like, self.value))


# ------------------------------------------------------------------------------------------------ words


@words.register(object)
def _(like: Any, value: Any) -> str:
    return _in_words(value, ", ")


@words.register(TensorMultiCategory)
def _(like: TensorMultiCategory, value: Any) -> str:
    if isinstance(value, torch.Tensor):  # not decoded
        value = plain(value).flatten().nonzero().flatten().tolist()
    return _in_words(value, "; ") if len(value) else ""


@words.register(TensorText)
def _(like: TensorText, value: Any) -> str:
    if isinstance(value, torch.Tensor):
        value = plain(value).flatten()[:_MANY].tolist()
    return value if isinstance(value, str) else " ".join(map(str, value))


_MANY = 1000  # tokens: more than anybody reads in a picture


def _in_words(value: Any, between: str) -> str:
    """Returns any value as text of bounded length."""
    if isinstance(value, torch.Tensor):
        return _tensor_in_words(plain(value).detach())
    if isinstance(value, list | tuple):
        rest = [] if len(value) <= 12 else [f"… ({len(value)})"]
        return between.join([*(_in_words(each, between) for each in value[:12]), *rest])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else f"{value:.4g}"


def _tensor_in_words(tensor: torch.Tensor) -> str:
    if tensor.numel() <= 8 and tensor.dim() <= 1 and not tensor.is_complex() and tensor.numel():
        return ", ".join(_in_words(number, "") for number in tensor.flatten().tolist())
    shape = " × ".join(map(str, tensor.shape)) or "one"
    kind = f"{shape} {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.is_complex() or tensor.is_meta or not tensor.numel():
        return kind
    numbers = tensor.to_dense().double()
    finite = numbers[numbers.isfinite()]
    odd = numbers.numel() - finite.numel()
    between = f", {finite.min().item():.4g} to {finite.max().item():.4g}" if finite.numel() else ""
    return f"{kind}{between}{f', {odd} not finite' if odd else ''}"


# ------------------------------------------------------------------------------------------------ series


@draw.register(TensorSeries)
def _(like: TensorSeries, value: Any, axes: Any) -> None:
    lines = _channels(value)
    for number, line in enumerate(lines):
        axes.plot(_times(like, 0, len(line)), line, linewidth=1, color=f"C{number}")
    axes.tick_params(labelsize=7)
    axes.margins(x=0.02)


@draw_over.register(TensorSeries, TensorSeries)
def _(before: TensorSeries, after: TensorSeries, value: Any, following: Any, axes: Any, name: str) -> None:
    start = plain(value).shape[-1]
    style = {"target": ":", "prediction": "-"}[name]
    for number, line in enumerate(_channels(following)):
        color = f"C{number}" if name == "target" else "tab:red"
        label = name if number == 0 else None
        axes.plot(
            _times(before, start, len(line)), line, style, linewidth=1.4, color=color, label=label, marker=".", ms=2
        )


def _channels(value: Any) -> list[Any]:
    """Returns the channels of a series as arrays, the first eight; where a number is missing, a line has a gap."""
    numbers = plain(torch.as_tensor(value)).detach().cpu().double()
    return list(numbers.reshape(-1, numbers.shape[-1] if numbers.dim() else 1)[:8].numpy())


def _times(like: Any, start: int, length: int) -> Any:
    """Returns when the values were taken: in seconds if the series has a `rate` (values a second), else counted."""
    return (torch.arange(start, start + length) / float(getattr(like, "rate", None) or 1)).numpy()


# ------------------------------------------------------------------------------------------------ every sample


@show_batch.register(object, object)
def _(x: Any, y: Any, samples: Sequence[tuple[Any, ...]]) -> Figure:
    inputs, targets = _several(x), _several(y)
    return _arranged([_elements(inputs, targets, sample, None) for sample in samples])


@show_results.register(object, object)
def _(x: Any, y: Any, samples: Sequence[tuple[Any, ...]], predictions: Sequence[Any]) -> Figure:
    inputs, targets = _several(x), _several(y)
    pairs = zip(samples, predictions, strict=True)
    return _arranged([_elements(inputs, targets, sample, _several(guess)) for sample, guess in pairs])


def _several(given: Any) -> tuple[Any, ...]:
    return given if type(given) is tuple else () if given is None else (given,)


def _elements(
    inputs: tuple[Any, ...], targets: tuple[Any, ...], sample: tuple[Any, ...], guesses: tuple[Any, ...] | None
) -> list[_Element]:
    """Returns the elements of a sample; what is shown together is one of them."""
    num = len(inputs)
    found = _named("input", inputs, sample[:num]) + _named("target", targets, sample[num:])
    return found + (_named("prediction", targets[: len(guesses)], guesses) if guesses is not None else [])


def _named(name: str, likes: Sequence[Any], values: Sequence[Any]) -> list[_Element]:
    merged: list[tuple[Any, Any]] = []
    for like, value in zip(likes, values, strict=True):
        if merged and together.find(type(merged[-1][0]), type(like)) is not None:
            both = together(merged[-1][0], like)
            merged[-1] = (both(merged[-1][0], like), both(merged[-1][1], value))
        else:
            merged.append((like, value))
    return [
        _Element(name if len(merged) == 1 else f"{name} {i}", like, value) for i, (like, value) in enumerate(merged)
    ]


def _arranged(samples: list[list[_Element]]) -> Figure:
    """Returns a grid of the samples' pictures, or a table where there are none."""
    from dist_ai.core import figures

    if any(draw.find(type(element.like)) for element in samples[0]):
        panels = [_panels(elements) for elements in samples]
        return figures.grid([panel for each in panels for panel in each], per_sample=len(panels[0]))
    rows = [{name: cell for element in elements for name, cell in _cells(element).items()} for elements in samples]
    colors = [{e.name: color for e in elements if (color := _judged(e, elements))} for elements in samples]
    return figures.table(rows, colors)


def _panels(elements: list[_Element]) -> list[Panel]:
    """Returns the pictures of a sample, in order: inputs, with what is drawn over them; then those beside them."""
    from dist_ai.core.figures import Panel

    below = next((e for e in elements if e.name.startswith("input") and draw.find(type(e.like))), None)
    panels: list[Panel] = []
    said: list[_Element] = []
    over: list[_Element] = []
    for element in elements:
        has_axes = draw.find(type(element.like)) is not None
        if below is None or (has_axes and element.name.startswith("input")):
            lies_over = False
        else:
            lies_over = draw_over.find(type(below.like), type(element.like)) is not None
        if lies_over:
            over.append(element)
        elif has_axes:
            panels.append(Panel(element.name, [_drawing(element)], shape=_shape(element)))
        else:
            said.append(element)
    place = 0 if below is None else next(i for i, p in enumerate(panels) if p.title == below.name)
    one_panel = not any(e.name.startswith("prediction") for e in over) or isinstance(over[0].like, TensorSeries)
    if over and below is not None:
        layers = [[_drawing(below), *(_drawing_over(below, e) for e in over)]] if one_panel else []
        layers = layers or [[_drawing(below), _drawing_over(below, e)] for e in over]
        titles = [below.name] if one_panel else [e.name for e in over]
        panels[place : place + 1] = [
            Panel(title, layer, shape=_shape(below)) for title, layer in zip(titles, layers, strict=True)
        ]
    caption, color = _caption(said)
    titles = [panel.title for panel in panels] if len(panels) > 1 else [""]
    return [
        panel._replace(title="\n".join(filter(None, (caption if i == 0 else "", title))), color=color)
        for i, (panel, title) in enumerate(zip(panels, titles, strict=True))
    ]


def _drawing(element: _Element) -> Any:
    return lambda axes: draw(element.like, element.value, axes)


def _drawing_over(below: _Element, element: _Element) -> Any:
    name = element.name.partition(" ")[0]
    return lambda axes: draw_over(below.like, element.like, below.value, element.value, axes, name)


def _shape(element: _Element) -> float:
    """Returns height by width of what is drawn."""
    first = element.like[0] if isinstance(element.like, tuple) else element.like
    if isinstance(first, TensorSeries):
        return 0.0
    size: Any = getattr(element.value, "shape", ())
    return size[-2] / size[-1] if len(size) >= 2 and size[-1] and size[-2] else 1.0


def _caption(said: list[_Element]) -> tuple[str, str]:
    """Returns what stands above a sample's pictures, and its colour: what is predicted, and what it is if that differs."""
    lines, colors = [], []
    for element in said:
        rival = _rival(element, said)
        if rival is None:
            lines.append(element.text)
        elif element.name.startswith("prediction"):
            colors.append(_judged(element, said) or "black")
            same = element.text == rival.text
            lines += [element.text] if same else [element.text or "none", f"is {rival.text or 'none'}"]
    color = "tab:red" if "tab:red" in colors else next(iter(colors), "black")
    return "\n".join(lines), color


def _rival(element: _Element, elements: list[_Element]) -> _Element | None:
    """Returns the prediction of a target, or the target of a prediction."""
    kind, _, number = element.name.partition(" ")
    other = {"target": "prediction", "prediction": "target"}.get(kind)
    wanted = {f"{other} {number}".strip(), f"{other} 0" if not number else "", other if number == "0" else ""}
    return next((e for e in elements if e.name in wanted), None) if other else None


def _judged(element: _Element, elements: list[_Element]) -> str | None:
    """Returns the colour of a prediction that can be right or wrong."""
    target = _rival(element, elements)
    if not element.name.startswith("prediction") or target is None:
        return None
    if not isinstance(element.like, TensorCategory | TensorMultiCategory):
        return None
    return "green" if element.text == target.text else "tab:red"


def _cells(element: _Element) -> dict[str, str]:
    """Returns what an element fills in a table, by column: a mapping and a named tuple fill several."""
    value = element.value
    if hasattr(value, "_fields"):
        value = value._asdict()
    if not isinstance(value, Mapping):
        return {element.name: element.text}
    suffix = "" if element.name.startswith("input") else f" ({element.name})"
    cells: dict[str, str] = {}
    for name, each in value.items():
        if isinstance(each, torch.Tensor) and each.dim() == 1 and len(each) <= 32:
            cells.update({f"{name} {i}{suffix}": _in_words(n, ", ") for i, n in enumerate(each.tolist())})
        else:
            cells[f"{name}{suffix}"] = "" if each is None or _is_nan(each) else _in_words(each, ", ")
    return cells


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
