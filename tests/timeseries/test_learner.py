"""`ts_learner`: from arrays to predictions, exports and forecasts, in the units of the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from series import labelled, quick_learner, uneven, waves
from torch import nn
from torch.nn import functional as F

from dist_ai.cli.main import main
from dist_ai.core import Transform
from dist_ai.errors import ConfigError, DataError
from dist_ai.export import Predictor
from dist_ai.learner import Learner, load_learner
from dist_ai.losses import CompositeLoss, CrossEntropyLoss, MSELoss, loss_metrics
from dist_ai.metrics import AccumMetric, R2Score, mae, rmse
from dist_ai.timeseries import (
    ForecastLearner,
    ForecastLoss,
    Jitter,
    Standardize,
    TensorForecast,
    TSDataLoaders,
    TSForecastDataLoaders,
    WalkForwardSplitter,
    Window,
    architectures,
    forecast_learner,
    forecasters,
    plot_forecast,
    ts_learner,
    ts_tfms,
)
from dist_ai.timeseries.learner import _following


def forecasting(arch: str = "NLinear", *, learner: Any = None, X: Any = None, **options: Any) -> ForecastLearner:
    dls = TSForecastDataLoaders.from_arrays(
        waves() if X is None else X, **{"context": 24, "horizon": 6, "bs": 16, "num_workers": 0, **options}
    )
    learn = ts_learner(dls, arch, **{"run_dir": None, "progress": False, **(learner or {})})
    assert isinstance(learn, ForecastLearner)
    return learn


def hourly(num: int = 200) -> pd.DataFrame:
    hours = pd.date_range("2024-01-01", periods=num, freq="h")
    return pd.DataFrame({"ts": hours, "load": waves(num), "phase": np.arange(num) % 8 * 1.0})


# ------------------------------------------------------------------------------------ what a series is


@pytest.mark.parametrize("arch", ["FCN", "GRU", "MiniRocket"])
@pytest.mark.parametrize("make", [labelled, uneven])
def test_it_learns_shows_predicts_and_is_exported_and_loaded_without_its_data(
    arch: str, make: Any, tmp_path: Path
) -> None:
    X, y = make(40)
    config = {"num_features": 168} if arch == "MiniRocket" else {"hidden": 16} if arch == "GRU" else None
    learn = quick_learner(X, y, arch, config=config, pad=make is uneven, scale=Standardize(), batch_tfms=Jitter(0.05))
    learn.fit_one_cycle(8, 1e-2, valid_every=10**6)
    assert learn.recorder.final[1] >= 0.75
    for figure in (learn.dls.show_batch(max_n=4), learn.show_results(max_n=4)):
        assert len([axes for axes in figure.axes if axes.lines]) == 4
    label, index, probabilities = learn.predict(X[5])
    assert label == ("down", "up")[int(index)]
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-5)
    learn.export(tmp_path / "model")
    alone = Predictor(tmp_path / "model").predict_many([X[5], X[6]])
    torch.testing.assert_close(alone[0].output, probabilities)
    torch.testing.assert_close(load_learner(tmp_path / "model").predict(X[5])[2], probabilities)


@pytest.mark.parametrize(
    ("y", "loss", "size"),
    [
        (["a", "b"] * 12, CrossEntropyLoss, 2),
        (np.linspace(0, 1, 24), MSELoss, 1),
        (np.random.default_rng(0).normal(size=(24, 3)), MSELoss, 3),
    ],
)
def test_the_labels_say_the_loss_the_metric_and_the_number_of_outputs(y: Any, loss: type, size: int) -> None:
    learn = quick_learner(labelled()[0], y)
    learn.fit(1)
    assert type(learn.loss_func) is loss
    assert learn.get_preds()[0].reshape(len(learn.dls.valid_ds), -1).shape[1] == size
    assert len(learn.recorder.final) == 2
    assert isinstance(
        learn.predict(labelled()[0][0])[0], str if loss is CrossEntropyLoss else float if size == 1 else list
    )


def test_the_weights_depend_on_the_seed_alone() -> None:
    X, y = labelled()
    torch.manual_seed(1)
    first = quick_learner(X, y, seed=5).model.state_dict()
    torch.manual_seed(2)
    again, other = quick_learner(X, y, seed=5).model.state_dict(), quick_learner(X, y, seed=6).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_function_is_an_architecture_too_and_says_why_it_cannot_be_exported(tmp_path: Path) -> None:
    X, y = labelled()
    dls = TSDataLoaders.from_arrays(X, y, bs=8, num_workers=0)
    learn = ts_learner(
        dls,
        lambda channels, n_out: nn.Sequential(nn.Flatten(), nn.Linear(20 * channels, n_out)),
        run_dir=None,
        progress=False,
    )
    learn.fit(1)
    with pytest.raises(ConfigError, match="cannot export this Sequential"):
        learn.export(tmp_path / "model")


def test_batches_of_one_and_unknown_options_are_refused() -> None:
    X, y = labelled()
    with pytest.raises(ConfigError, match="bs=1: BatchNorm needs at least 2 series"):
        quick_learner(X, y, bs=1)
    with pytest.raises(TypeError, match="learning_rate"):
        quick_learner(X, y, learner={"learning_rate": 1})
    with pytest.raises(ConfigError, match=r"no architecture named 'ResNe'.*did you mean 'ResNet'"):
        quick_learner(X, y, "ResNe")


def test_it_trains_in_bf16() -> None:
    X, y = labelled(40)
    learn = quick_learner(X, y, learner={"precision": "bf16"})
    learn.fit_one_cycle(8, 1e-2)
    assert learn.recorder.final[1] >= 0.75
    forecast = forecasting("LSTM", learner={"precision": "bf16"})
    forecast.fit_one_cycle(2, 1e-2)
    assert np.isfinite(forecast.forecast(waves())).all()


def test_dist_ai_predict_reads_a_series_from_a_csv_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = labelled(40)
    learn = quick_learner(X, y)
    learn.fit_one_cycle(6, 1e-2)
    learn.export(tmp_path / "model")
    pd.DataFrame(X[1].T, columns=["x", "y"]).to_csv(tmp_path / "one.csv", index=False)
    with pytest.raises(SystemExit) as done:
        main(["predict", str(tmp_path / "model"), str(tmp_path / "one.csv"), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["label"] == learn.predict(X[1])[0]


def test_dist_ai_predict_forecasts_what_follows_a_csv_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn = forecasting()
    learn.fit(1)
    learn.export(tmp_path / "model")
    pd.DataFrame({"load": waves()}).to_csv(tmp_path / "history.csv", index=False)
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "model"), str(tmp_path / "history.csv"), "--json"])
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["label"], learn.forecast(waves()), rtol=1e-5)


# ------------------------------------------------------------------------------------ what follows it


@pytest.mark.parametrize("arch", list(forecasters))
def test_a_forecaster_beats_repeating_the_last_value_within_seconds(arch: str) -> None:
    learn = forecasting(arch)
    learn.fit_one_cycle(6, 1e-2, valid_every=10**6)
    errors = learn.backtest(season=1).set_index("step")
    assert errors.loc["all", "mae"] < 0.8 * errors.loc["all", "seasonal_mae"]
    assert learn.recorder.final[1] == pytest.approx(errors.loc["all", "mae"], rel=1e-5)
    assert learn.recorder.final[2] == pytest.approx(errors.loc["all", "rmse"], rel=1e-5)


def test_a_forecast_is_in_the_units_of_the_data_and_the_same_however_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = waves()
    learn = forecasting("DLinear")
    learn.fit_one_cycle(20, 1e-2)
    forecast = learn.forecast(values[:150])
    assert forecast.shape == (1, 6)
    np.testing.assert_allclose(forecast[0], values[150:156], atol=3)
    np.testing.assert_allclose(learn.forecast(values[100:150]), forecast, rtol=1e-6)  # the last steps are what counts
    learn.export(tmp_path / "model")
    np.testing.assert_allclose(Predictor(tmp_path / "model").predict(values[:150]).label, forecast, rtol=1e-6)
    np.save(tmp_path / "past.npy", values[:150])
    with pytest.raises(SystemExit):
        main(["predict", str(tmp_path / "model"), str(tmp_path / "past.npy"), "--json"])
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["label"], forecast, rtol=1e-6)
    with pytest.raises(DataError, match="without anything known of the future, so it can do nothing with future="):
        learn.forecast(values, 12)
    again = load_learner(tmp_path / "model")
    np.testing.assert_allclose(again.predict(values[:150])[0], forecast, rtol=1e-6)
    assert isinstance(again, ForecastLearner)
    np.testing.assert_array_equal(again.forecast(values[:150]), learn.forecast(values[:150]))
    with pytest.raises(DataError, match="no valid loader: this was loaded from an export"):
        again.backtest()


def test_a_frame_is_forecast_with_its_times_and_names() -> None:
    both = pd.concat([hourly().assign(site=name) for name in ("a", "b")], ignore_index=True)
    dls = TSForecastDataLoaders.from_long_df(
        both, time="ts", targets="load", id="site", known=["phase"], context=24, horizon=6, bs=32, num_workers=0
    )
    learn = ts_learner(dls, "MLP", run_dir=None, progress=False)
    learn.fit_one_cycle(2, 1e-2)
    future = both.assign(load=both.load.where(both.ts < both.ts.max() - pd.Timedelta(hours=5)))
    told = learn.forecast(future)  # type: ignore[attr-defined]
    assert list(told.columns) == ["site", "ts", "load"]
    assert told.site.tolist() == ["a"] * 6 + ["b"] * 6
    assert told.ts[:6].tolist() == hourly().ts[-6:].tolist()
    window = Window(hourly()[["load", "phase"]].to_numpy().T[:, :194], hourly()[["phase"]].to_numpy().T[:, 194:])
    np.testing.assert_allclose(told.load[:6], learn.forecast(window.past, window.future)[0], rtol=1e-5)  # type: ignore[attr-defined]
    with pytest.raises(
        DataError,
        match=r"0 row\(s\) of series 'a' come after the last value of load, and 6 are forecast; give a row for each",
    ):
        learn.forecast(both)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"with a frame, what is known of the future is in rows at its end.*pd.concat"):
        learn.forecast(both, future.tail(6))  # type: ignore[attr-defined]  # of forecasts it is a ForecastLearner
    for column in ("site", "ts", "load", "phase"):
        with pytest.raises(DataError, match=f"there is no column '{column}'; did you mean '{column}s'"):
            learn.forecast(future.rename(columns={column: f"{column}s"}))  # type: ignore[attr-defined]


def test_a_model_of_a_long_frame_predicts_from_one(tmp_path: Path) -> None:
    X, y = labelled(12, 2, 8)
    frame = pd.concat(
        pd.DataFrame({"name": f"s{i}", "t": range(8), "a": x[0], "b": x[1], "kind": kind})
        for i, (x, kind) in enumerate(zip(X, y, strict=True))
    )
    dls = TSDataLoaders.from_long_df(frame, id="name", time="t", values=["a", "b"], label="kind", bs=4, num_workers=0)
    learn = ts_learner(dls, "FCN", config={"filters": [4, 4, 4]}, run_dir=None, progress=False)
    expected, none = learn.get_preds(dls.test_dl(X))
    found, _ = learn.get_preds(dls.test_dl(frame.drop(columns="kind")))
    torch.testing.assert_close(found, expected)
    assert none is None
    one = frame[frame.name == "s3"]
    for rows in (one, one.drop(columns=["name", "kind"])):
        torch.testing.assert_close(learn.predict(rows)[2], expected[3])
    assert learn.validate(dls.test_dl(frame, with_labels=True))[0] > 0
    with pytest.raises(DataError, match=r"a frame of 12 series in 'name' where one is asked for; .*test_dl\(frame\)"):
        learn.predict(frame)
    with pytest.raises(DataError, match="there is no column 'b'"):
        learn.predict(one.drop(columns="b"))
    learn.export(tmp_path / "model")
    of_arrays = quick_learner(X, y)
    for model in (load_learner(tmp_path / "model"), of_arrays):
        with pytest.raises(
            DataError, match=r"a DataFrame is no series.*; expected \(2, length\).*frame\[columns\].to_numpy\(\).T"
        ):
            model.predict(one)


def test_a_frame_given_to_predict_of_a_forecaster_names_forecast() -> None:
    learn = of_frame(hourly())
    for ask in (learn.predict, learn.dls.test_dl):
        with pytest.raises(DataError, match=r"a frame is no window: learn.forecast\(frame\) tells what follows it"):
            ask(hourly())


def of_frame(df: pd.DataFrame, arch: str = "NLinear", **options: Any) -> ForecastLearner:
    """A Learner of a frame with the columns ts and load, not trained."""
    given = {"time": "ts", "targets": "load", "context": 24, "horizon": 6, "bs": 32, "num_workers": 0, **options}
    return forecast_learner(TSForecastDataLoaders.from_long_df(df, **given), arch, run_dir=None, progress=False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda f: f.assign(load=np.nan),
            r"none of the 200 row\(s\) of series 'a' has a value of load: there is no history to forecast from",
        ),
        (lambda f: f.head(0), "the frame has no rows"),
        (lambda f: f.head(10), r"a history of series 'a' of 10 step\(s\), and the model forecasts from the last 24"),
        (lambda f: f.assign(site=f.site.where(f.index != 5)), "row 5 has no series: nothing in 'site'"),
        (
            lambda f: f.assign(
                load=f.load.where(f.index < 194),
                ts=f.ts.where(f.index < 194, f.ts + pd.Timedelta(days=2000)),
            ),
            "no step of series 'a' between 2024-01-09 01:00:00 and 2029-07-01 02:00:00, and most are closer",
        ),
        (
            lambda f: f.assign(load=f.load.where(f.index < 194), ts=[*f.ts[:194], *f.ts[:6]]),
            "time 2024-01-01 00:00:00 of series 'a' comes more than once",
        ),
        (
            lambda f: f.assign(load=f.load.where(f.index < 194), phase="x"),
            "column 'phase' has values that are no numbers",
        ),
    ],
)
def test_a_frame_from_which_nothing_can_be_forecast_is_named(change: Any, said: str) -> None:
    frame = hourly().assign(site="a")
    learn = of_frame(frame, id="site", known="phase")
    with pytest.raises(DataError, match=said):
        learn.forecast(change(frame))


def test_a_history_of_other_steps_than_those_of_training_is_refused() -> None:
    learn = of_frame(hourly())
    for times, said in (
        (
            pd.date_range("2024-01-01", periods=200, freq="D"),
            "as far apart as 2024-01-01 00:00:00 and 2024-01-02 00:00:00",
        ),
        (
            np.arange(200),
            "as far apart as 0 and 1, and those that the model was trained on 3600 s: it forecasts such steps only",
        ),
    ):
        with pytest.raises(DataError, match=said):
            learn.forecast(hourly().assign(ts=times))


def test_rows_of_any_kind_are_a_history() -> None:
    learn = of_frame(hourly())
    expected = learn.forecast(hourly())
    for rows in (hourly().to_dict("records"), {name: hourly()[name].tolist() for name in hourly()}):
        pd.testing.assert_frame_equal(learn.forecast(rows), expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"arch": None}, "arch=None: expected the name of a model, such as 'LSTM', or a function that makes one"),
        (
            {"arch": nn.Linear(2, 2)},
            r"arch=Linear.*: expected the name .* one that is made goes to Learner\(dls, model\)",
        ),
        ({"config": [3]}, r"config=\[3\]: expected a dict of options of the model"),
        ({"n_out": 0}, "n_out=0: expected a whole number of at least 1"),
    ],
)
def test_what_makes_no_model_is_named(given: Any, said: str) -> None:
    dls = TSDataLoaders.from_arrays(*labelled(), bs=4, num_workers=0)
    with pytest.raises(ConfigError, match=said):
        ts_learner(dls, **{"run_dir": None, **given})


def test_one_row_has_no_step_to_forecast_the_times_of() -> None:
    learn = of_frame(hourly(), context=1)
    assert len(learn.forecast(hourly().head(2))) == 6
    with pytest.raises(
        DataError, match=r"one row does not tell how far apart the steps are.*give the row before it too"
    ):
        learn.forecast(hourly().head(1))
    with pytest.raises(DataError, match=r"none of the 0 row\(s\) has a value of load"):
        learn.forecast(hourly().head(0))


@pytest.mark.parametrize(
    "times",
    [
        range(200),
        np.arange(200) * 10.0,
        pd.date_range("2024-03-01", periods=200, freq="h", tz="Europe/Berlin"),
        pd.date_range("2024-02-01", periods=200, freq="D", tz="Europe/Berlin"),
        pd.period_range("2010-01", periods=200, freq="M"),
        pd.timedelta_range(0, periods=200, freq="15min"),
        pd.date_range("2024-01-01", periods=200, freq="D").date,
        pd.date_range("2010-01-01", periods=200, freq="MS"),
        pd.date_range("2010-01-01", periods=200, freq="QE"),
    ],
    ids=["int", "float", "hours", "days", "periods", "timedeltas", "dates", "months", "quarters"],
)
def test_the_times_of_a_forecast_follow_those_of_the_history(times: Any) -> None:
    frame = hourly().assign(ts=list(times) if isinstance(times, np.ndarray) and times.dtype == object else times)
    learn = of_frame(frame, known="phase")
    for rows in (60, 70):  # the end of March, where clocks are changed, is step 55 of those days
        asked = frame.head(rows + 6).assign(load=frame.load.where(frame.index < rows))
        told = learn.forecast(asked).ts.tolist()
        assert told == [pd.Timestamp(t) if type(t).__name__ == "date" else t for t in frame.ts[rows : rows + 6]]
    alone = of_frame(frame)
    for rows in (52, 60, 70):
        assert alone.forecast(frame.head(rows)).ts.tolist() == [
            pd.Timestamp(t) if type(t).__name__ == "date" else t for t in frame.ts[rows : rows + 6]
        ]


def test_a_forecast_of_a_history_with_gaps_is_filled_as_training_was() -> None:
    frame = hourly()
    frame.loc[[*range(30), 60], "phase"] = np.nan
    learn = of_frame(frame, "MLP", inputs="phase", missing="previous")
    there = frame.phase[:160].mean()  # what lies before the validation
    filled = frame.assign(phase=frame.phase.ffill().fillna(there))
    again = of_frame(filled, "MLP", inputs="phase")
    for rows in (40, 60, 61):
        expected = learn.forecast(np.stack([filled.load, filled.phase])[:, :rows])
        np.testing.assert_allclose(learn.forecast(frame.head(rows)).load, expected[0], rtol=1e-6)
    assert len(again.dls.train_ds) == len(learn.dls.train_ds)


@pytest.mark.parametrize("kind", ["l1", "mse", "huber"])
def test_the_loss_and_the_metrics_leave_out_targets_that_are_missing(kind: str) -> None:
    values = waves()
    values[[100, 165, 166]] = np.nan
    learn = forecasting(X=values, missing="previous", learner={"loss_func": ForecastLoss(kind)})
    learn.fit_one_cycle(2, 1e-2)
    found, came = learn.get_preds()
    zero, unit = learn.dls.windows.scale.zero[0], learn.dls.windows.scale.unit[0]
    pred, target = (found - zero) / unit, (came - zero) / unit
    there = ~target.isnan()
    assert int((~there).sum()) == 12
    errors = pred - target
    of = {"l1": lambda e: e.abs(), "mse": torch.square, "huber": lambda e: F.huber_loss(e, 0 * e, reduction="none")}[
        kind
    ]
    assert learn.recorder.final[0] == pytest.approx(of(errors).nanmean((1, 2)).mean().item(), rel=1e-5)
    assert learn.recorder.final[1] == pytest.approx(errors[there].abs().mean().item() * unit, rel=1e-5)
    assert learn.recorder.final[2] == pytest.approx(errors[there].square().mean().sqrt().item() * unit, rel=1e-5)
    told = learn.backtest(season=8).set_index("step").loc["all"]
    assert (told.mae, told.rmse) == (pytest.approx(learn.recorder.final[1]), pytest.approx(learn.recorder.final[2]))
    assert np.isfinite(told.seasonal_mae)
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())


def worst(pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return (pred - target).abs().max()


def test_all_metrics_and_predictions_of_forecasts_are_in_the_units_of_the_data(tmp_path: Path) -> None:
    given = [mae, rmse, R2Score(), worst, AccumMetric(worst, "worst of all")]
    learn = forecasting(learner={"metrics": given})
    learn.fit_one_cycle(1, 1e-2)
    pred, target, decoded = learn.get_preds(with_decoded=True)
    past, again, _ = learn.get_preds(with_input=True, act=lambda raw: raw)
    series = waves()
    assert target[-1, 0].tolist() == pytest.approx(series[-6:], rel=1e-6)
    assert decoded.equal(pred)
    assert past.abs().max() < 5
    assert again.abs().max() < 5  # what the model gives, in its scale
    errors = (pred - target).abs()
    expected = {"mae": errors.mean(), "rmse": errors.square().mean().sqrt(), "worst of all": errors.max()}
    names = [metric.name for metric in learn.metrics]
    final = dict(zip(names, learn.recorder.final[1:], strict=True))
    assert {name: final[name] for name in expected} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-5
    )
    assert final["mae"] == pytest.approx(learn.backtest().mae.iloc[-1], rel=1e-6)
    assert 1 < final["worst"] <= final["worst of all"] * (1 + 1e-6)
    assert learn.tta(n=1)[1].equal(target)
    learn.metrics = mae
    assert learn.validate()[1] == pytest.approx(final["mae"], rel=1e-6)
    label, *others = learn.predict(series[-24:])
    assert all(np.allclose(label, each, atol=1e-3) for each in others)
    learn.export(tmp_path / "model")
    for one, other in zip(load_learner(tmp_path / "model").predict(series[-24:]), others * 2, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_metrics_that_were_returned_may_be_given_again_and_stay_in_units() -> None:
    loss = CompositeLoss({"l1": ForecastLoss("l1"), "mse": (0.5, ForecastLoss("mse"))})
    learn = forecasting(learner={"metrics": [mae, R2Score(), worst], "loss_func": loss})
    names, before = learn.recorder.names, learn.validate()
    for _ in range(2):
        learn.metrics = list(learn.metrics)
    assert (learn.recorder.names, learn.validate()) == (names, before)
    learn.metrics = [*learn.metrics, rmse]
    assert learn.validate() == [*before[:4], pytest.approx(learn.backtest().rmse.iloc[-1]), *before[4:]]
    learn.metrics = {"error": learn.metrics[0], "fit": learn.metrics[1]}
    assert [metric.name for metric in learn.metrics] == ["error", "fit", *(part.name for part in loss_metrics(loss))]
    assert learn.validate() == [*before[:3], *before[4:]]


class Backwards(Transform):
    """Halves a forecast and turns it round, (targets, horizon): a batch of them, turned so, would be another."""

    def encodes(self, x: TensorForecast) -> Any:
        return x.flip(0) / 2

    def decodes(self, x: TensorForecast) -> Any:
        return x.flip(0) * 2


def test_what_item_tfms_did_to_a_forecast_is_undone_in_all_that_is_in_units() -> None:
    X = np.stack([waves(), 1000 + waves()])
    learn = forecasting(X=X, item_tfms=Backwards(), scale=None)
    learn.fit(1)
    pred, target = learn.get_preds()
    np.testing.assert_allclose(target[-1], X[:, -6:], rtol=1e-6)
    assert learn.recorder.final[1] == pytest.approx((pred - target).abs().mean().item(), rel=1e-5)
    np.testing.assert_allclose(learn.forecast(X[:, :-6]), pred[-1], rtol=1e-5)


def test_metrics_are_in_the_units_of_the_data_that_is_there_now() -> None:
    learn, more = forecasting(), forecasting(X=10 * waves())
    before = learn.validate()
    learn.dls = more.dls
    assert learn.validate()[1:] == pytest.approx([10 * each for each in before[1:]], rel=1e-5)
    assert learn.validate()[1] == pytest.approx(learn.backtest().mae.iloc[-1], rel=1e-6)
    more.metrics = learn.metrics  # of another Learner: in the units of its own data
    learn.dls = forecasting().dls
    assert more.validate()[1] == pytest.approx(more.backtest().mae.iloc[-1], rel=1e-6)


def test_a_loss_that_would_be_nan_where_targets_are_missing_is_refused() -> None:
    values = waves()
    values[100] = np.nan
    with pytest.raises(
        ConfigError, match=r"loss_func=L1Loss\(\) gives NaN where a target is missing; take ForecastLoss"
    ):
        forecasting(X=values, missing="zero", learner={"loss_func": nn.L1Loss()})


def test_forecasts_and_metrics_about_a_high_level_are_exact(tmp_path: Path) -> None:
    values = 1e9 + np.sin(np.arange(200) / 3)
    learn = forecasting(X=values)
    learn.fit_one_cycle(8, 1e-2, valid_every=10**6)
    assert 1e-4 < learn.recorder.final[1] < 0.3
    forecast = learn.forecast(values[:150])
    np.testing.assert_allclose(forecast[0], values[150:156], rtol=0, atol=0.6)
    assert len(set(forecast[0])) == 6
    learn.export(tmp_path / "model")
    np.testing.assert_allclose(Predictor(tmp_path / "model").predict(values[:150]).label, forecast, rtol=0, atol=1e-5)


def test_what_is_known_of_the_future_is_made_use_of() -> None:
    random = np.random.default_rng(0)
    switch = random.integers(0, 2, 300) * 1.0  # nothing before it tells what it will be
    X = np.stack([10 * switch + random.normal(0, 0.1, 300), switch])
    alone, helped = forecasting("NLinear", X=X[:1]), forecasting("NLinear", X=X, targets=[0], known=[1])
    for learn in (alone, helped):
        learn.fit_one_cycle(10, 2e-2, valid_every=10**6)
    assert helped.backtest().mae.iloc[-1] < 0.5 * alone.backtest().mae.iloc[-1]
    assert helped.forecast(X[:, :200], X[1:, 200:206]).shape == (1, 6)


def test_the_steps_of_training_are_looked_at_once_however_many_series_are_forecast(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num = 20
    many = pd.concat([hourly(40).assign(site=i) for i in range(num)], ignore_index=True)
    dls = TSForecastDataLoaders.from_long_df(
        many, time="ts", targets="load", id="site", context=24, horizon=6, bs=32, num_workers=0
    )
    learn = forecast_learner(dls, run_dir=None, progress=False)
    median, calls = np.median, []
    monkeypatch.setattr(np, "median", lambda x: calls.append(x) or median(x))
    assert len(learn.forecast(many)) == num * 6
    assert num <= len(calls) <= 4 * num  # and not num * num
    calls.clear()
    daily = many.assign(ts=np.tile(pd.date_range("2024-01-01", periods=40, freq="D"), num))
    with pytest.raises(DataError, match="and those that the model was trained on 3600 s: it forecasts such steps only"):
        learn.forecast(daily)


def test_inputs_that_a_forecaster_does_not_look_at_are_named() -> None:
    dls = TSForecastDataLoaders.from_long_df(
        hourly(), time="ts", targets="load", inputs="phase", context=24, horizon=6, num_workers=0
    )
    with pytest.warns(
        UserWarning, match=r"NLinear looks at the past of its targets only, so 'phase' will change nothing; "
    ) as told:
        forecast_learner(dls, run_dir=None)
    assert "GRU, LSTM, MLP" in str(told[0].message)
    assert told[0].filename == __file__
    with pytest.warns(
        UserWarning, match="DLinear looks at the past of its targets only, so channel 1 will change nothing"
    ):
        forecasting("DLinear", X=np.stack([waves(), waves()]), targets=[0])
    forecast_learner(dls, "MLP", run_dir=None, progress=False)  # which looks at all: warnings are errors here


def test_every_fold_of_a_walk_forward_split_can_be_trained_on() -> None:
    errors = []
    for fold in range(2):
        learn = forecasting(splitter=WalkForwardSplitter(0.4, n_folds=2, fold=fold, valid_stride=6))
        learn.fit_one_cycle(3, 1e-2)
        errors.append(learn.backtest().mae.iloc[-1])
    assert np.isfinite(errors).all()


@pytest.mark.parametrize("kind", ["l1", "mse", "huber"])
def test_the_loss_of_forecasts_can_be_chosen_and_is_exported(kind: str, tmp_path: Path) -> None:
    learn = forecasting(learner={"loss_func": ForecastLoss(kind)})
    learn.fit(1)
    learn.export(tmp_path / "model")
    assert load_learner(tmp_path / "model").loss_func.kind == kind
    with pytest.raises(ConfigError, match=r"ForecastLoss\('mae'\): expected one of l1, mse, huber"):
        ForecastLoss("mae")


def test_forecasts_are_drawn_behind_what_came_before() -> None:
    learn = forecasting()
    for figure in (learn.dls.show_batch(max_n=2), learn.show_results(max_n=2)):
        assert {len(axes.lines) for axes in figure.axes if axes.lines} <= {2, 3}
    known = forecasting(X=np.stack([waves(), np.arange(200) % 8]), known=[1])
    assert [len(axes.lines) for axes in known.show_results(max_n=2).axes if axes.lines] == [
        4,
        4,
    ]  # two channels, two forecasts
    figure = plot_forecast(waves(), learn.forecast(waves()), np.zeros((1, 6)), last=50)
    history, came, forecast = figure.axes[0].lines
    assert (len(history.get_xdata()), list(came.get_xdata())) == (50, list(range(50, 56)))
    assert list(forecast.get_xdata()) == list(came.get_xdata())


def test_what_cannot_be_forecast_says_why() -> None:
    learn = forecasting()
    with pytest.raises(DataError, match=r"a history of 10 step\(s\), and the model forecasts from the last 24"):
        learn.forecast(waves()[:10])
    with pytest.raises(DataError) as long:
        learn.forecast(waves()[:23])
    assert len(str(long.value)) < 400  # the history itself is cut off
    assert "\n" not in str(long.value)
    with pytest.raises(
        DataError, match="the model was trained from arrays, or was loaded; give the history as an array"
    ):
        learn.forecast(hourly())
    with pytest.raises(ConfigError, match="season=25: expected 1 to context=24 steps"):
        learn.backtest(season=25)
    with pytest.raises(ConfigError, match=r"season=24.0: expected a number of steps, at least 1; did you mean 24\?"):
        learn.backtest(season=24.0)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ConfigError, match="TSDataLoaders holds no windows to forecast from; make them with TSForecast"):
        forecast_learner(TSDataLoaders.from_arrays(*labelled(), bs=4, num_workers=0))  # type: ignore[arg-type]  # wrong on purpose


def test_an_epoch_of_augmentations_changes_what_is_learned_and_not_what_is_validated() -> None:
    X, y = labelled()
    plain, augmented = (quick_learner(X, y, batch_tfms=tfms) for tfms in ([], ts_tfms()))
    torch.testing.assert_close(plain.dls.valid.one_batch()[0], augmented.dls.valid.one_batch()[0])
    assert not torch.equal(plain.dls.one_batch()[0], augmented.dls.one_batch()[0])


def test_learners_of_series_are_learners() -> None:
    assert isinstance(quick_learner(*labelled()), Learner)
    assert "InceptionTime" in architectures


@pytest.mark.parametrize("every", ["MS", "ME", "3MS", "YS", "W", "36h"])
def test_months_are_followed_by_months_of_the_calendar(every: str) -> None:
    frame = pd.DataFrame({"month": pd.date_range("2010-01-01", periods=80, freq=every), "sold": np.arange(80.0)})
    dls = TSForecastDataLoaders.from_long_df(
        frame, time="month", targets="sold", context=12, horizon=3, bs=16, num_workers=0
    )
    learn = forecast_learner(dls, run_dir=None, progress=False)
    told = learn.forecast(frame.head(60))
    assert told.month.tolist() == frame.month[60:63].tolist()


def test_three_dates_tell_of_the_calendar_also_where_they_lie_equally_far_apart() -> None:
    for dates, following in (
        (["2021-01-01", "2022-01-01", "2023-01-01"], ["2024-01-01", "2025-01-01"]),
        (["2021-07-01", "2021-08-01", "2021-09-01"], ["2021-10-01", "2021-11-01"]),
        (["2021-01-01", "2021-02-01"], ["2021-03-04", "2021-04-04"]),  # which may be 31 days
    ):
        past = pd.DataFrame({"when": pd.to_datetime(dates)})
        assert [str(date.date()) for date in _following(past["when"], 2)] == following


def test_dist_ai_predict_reads_the_series_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = labelled(40)
    quick_learner(X, y).export(tmp_path / "model")
    for folder in ("some", "none"):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / "some" / "a.npy", X[0])
    pd.DataFrame(X[1].T, columns=["x", "y"]).to_csv(tmp_path / "some" / "b.csv", index=False)
    for folder, code in (("some", 0), ("none", 1)):
        with pytest.raises(SystemExit) as done:
            main(["predict", str(tmp_path / "model"), str(tmp_path / folder), "--json"])
        assert done.value.code == code
    told = capsys.readouterr()
    assert [Path(json.loads(line)["file"]).name for line in told.out.splitlines()] == ["a.npy", "b.csv"]
    assert "no file of a series under" in told.err
