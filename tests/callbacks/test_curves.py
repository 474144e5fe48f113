"""The recorder's figures show what was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import make_learner

from dist_ai.errors import DataError
from dist_ai.learner import Learner
from dist_ai.metrics import accuracy


@pytest.fixture(scope="module")
def learn() -> Learner:
    learn = make_learner(metrics=accuracy)
    learn.fit_one_cycle(3, 0.1)
    return learn


def test_the_loss_is_drawn_by_step_and_the_validations_loss_where_it_was_measured(
    learn: Learner, tmp_path: Path
) -> None:
    recorder = learn.recorder
    figure = recorder.plot_loss(skip_start=2, smooth=0.0)
    raw, smoothed, valid = figure.axes[0].lines
    assert list(raw.get_xdata()) == list(range(2, 9))
    assert list(raw.get_ydata()) == recorder.losses[2:]
    assert list(smoothed.get_ydata()) == pytest.approx(recorder.losses[2:])
    assert list(valid.get_xdata()) == [3, 6, 9]
    assert list(valid.get_ydata()) == [row["valid_loss"] for row in recorder.epochs]
    assert len(recorder.plot_loss(with_valid=False).axes[0].lines) == 2
    figure.savefig(tmp_path / "loss.png")
    assert figure._repr_png_()


def test_the_smoothed_loss_ends_at_the_recorders_own(learn: Learner) -> None:
    smoothed = learn.recorder.plot_loss().axes[0].lines[1]
    assert smoothed.get_ydata()[-1] == pytest.approx(learn.recorder.smooth_loss)


def test_the_rate_and_the_metrics_are_drawn(learn: Learner) -> None:
    assert list(learn.recorder.plot_schedule().axes[0].lines[0].get_ydata()) == learn.recorder.lrs
    [axes] = learn.recorder.plot_metrics().axes
    assert axes.get_title() == "accuracy"
    assert list(axes.lines[0].get_ydata()) == [row["accuracy"] for row in learn.recorder.epochs]


def test_without_anything_recorded_there_is_nothing_to_plot(learn: Learner) -> None:
    fresh = make_learner()
    for plot in (fresh.recorder.plot_loss, fresh.recorder.plot_schedule, fresh.recorder.plot_metrics):
        with pytest.raises(DataError, match=r"nothing to plot|no metrics to plot: no epoch is recorded"):
            plot()
    with pytest.raises(DataError, match="there are 9 recorded steps and 9 of them are skipped"):
        learn.recorder.plot_loss(skip_start=9)
