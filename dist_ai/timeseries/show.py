"""How forecasts are drawn; the rest, series and what follows them, is in `dist_ai.core.show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_forecast"]


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
