"""How forecasts are drawn; a series, and what follows it, is drawn as `dist_ai.core.show` says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dist_ai.core.series_types import TensorForecast, TensorKnown
from dist_ai.core.show import draw, draw_over, together
from dist_ai.core.types import TensorSeries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PastAndKnown", "plot_forecast"]


class PastAndKnown(NamedTuple):
    """A window's past and what is known of its future, of which the past is drawn.

    Attributes:
        past: a `TensorSeries`.
        known: a `TensorKnown`.
    """

    past: Any
    known: Any


@together.register(TensorSeries, TensorKnown)
def _(_past: TensorSeries, _known: TensorKnown) -> type[PastAndKnown]:
    return PastAndKnown


@draw.register(PastAndKnown)
def _(like: PastAndKnown, value: Any, axes: Any) -> None:
    draw(like.past, value.past, axes)


@draw_over.register(PastAndKnown, TensorForecast)
def _(like: PastAndKnown, after: TensorForecast, value: Any, following: Any, axes: Any, name: str) -> None:
    draw_over(like.past, after, value.past, following, axes, name)


def plot_forecast(history: Any, forecast: Any, actual: Any = None, *, last: int | None = None) -> Figure:
    """Returns a figure of a history, what was forecast, and what came.

    Args:
        history: (targets, length) or (length,).
        forecast: (targets, horizon) or (horizon,).
        actual: what came, of the forecast's shape; None where nobody knows yet.
        last: draw only so many steps of the history.
    """
    from dist_ai.core.figures import Panel, grid

    past, coming = np.atleast_2d(np.asarray(history)), np.atleast_2d(np.asarray(forecast))
    came = None if actual is None else np.atleast_2d(np.asarray(actual))
    past = past if last is None else past[:, -last:]

    def drawing(number: int) -> Any:
        def draw(axes: Any) -> None:
            steps = np.arange(past.shape[1], past.shape[1] + coming.shape[1])
            axes.plot(past[number], linewidth=1, color="C0", label="history")
            if came is not None:
                axes.plot(steps, came[number], ":", linewidth=1.4, color="C0", label="came")
            axes.plot(steps, coming[number], linewidth=1.4, color="tab:red", label="forecast")
            axes.legend(fontsize=7)
            axes.margins(x=0.02)

        return draw

    titles = [f"target {i}" if len(coming) > 1 else "" for i in range(len(coming))]
    return grid([Panel(title, [drawing(i)], shape=0) for i, title in enumerate(titles)])
