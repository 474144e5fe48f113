"""The Learners for series: what a series is, and what follows it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from dist_ai.core.names import known_arguments
from dist_ai.core.nested import parts
from dist_ai.core.types import TensorCategory, TensorMultiCategory, plain
from dist_ai.data import DataLoaders
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError
from dist_ai.export import ModelSpec
from dist_ai.learner import Learner, LearnerOptions, first_weights, register_learner, with_defaults
from dist_ai.learner.evaluation import device_of
from dist_ai.learner.groups import one_group
from dist_ai.losses import decodes
from dist_ai.losses.composite import PartOfLoss
from dist_ai.metrics import GatheredMetric, Metric, accuracy, accuracy_multi, mae, rmse
from dist_ai.timeseries.forecast_data import TSForecastDataLoaders
from dist_ai.timeseries.frames import as_pandas, channels_of, long_series, require_columns, series_by_id, times_of
from dist_ai.timeseries.items import PadTo
from dist_ai.timeseries.metrics import OfEach, in_units, to_units
from dist_ai.timeseries.models import MiniRocket, forecast_model, forecasters, series_model, series_splitter
from dist_ai.timeseries.windows import Window, require_steps

__all__ = ["ForecastLearner", "forecast_learner", "ts_learner"]

_ENOUGH = 512  # series that MiniRocket's biases are from


@known_arguments(LearnerOptions)
def ts_learner(
    dls: DataLoaders,
    arch: str | Callable[..., nn.Module] = "InceptionTime",
    *,
    n_out: int | None = None,
    dropout: float = 0.0,
    config: dict[str, Any] | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner that tells something of series: a class, a number, several numbers; or, of windows, one that forecasts.

    Args:
        dls: series and labels; or those of `TSForecastDataLoaders`, for which this is `forecast_learner`.
        arch: a name in `dist_ai.timeseries.models.architectures`: ``"FCN"``, ``"ResNet"``, ``"InceptionTime"``, ``"LSTM"``,
            ``"GRU"``, ``"LSTM_FCN"``, ``"GRU_FCN"``, ``"TST"``, ``"PatchTST"``, ``"MiniRocket"``; or a function of
            (channels, n_out) that returns a model, which then cannot be exported.
        n_out: outputs; by default the number of classes, or of numbers.
        dropout: before the last layer.
        config: options of the architecture: ``{"depth": 3}``.
        options: see `LearnerOptions`; metrics are by default accuracy for classes, that of each label for several, and the mean
            absolute error for numbers.

    The weights depend on `dls.seed` only.

    Raises:
        ConfigError: no such architecture, or series that do not fit it.
    """
    if isinstance(dls, TSForecastDataLoaders):
        return forecast_learner(dls, arch, config=config, **options)
    _check_model(arch, config)
    if dls.train.bs == 1:
        raise ConfigError("bs=1: BatchNorm needs at least 2 series in a training batch; use bs=2 or more")
    series, target, *_ = parts(dls.one_batch())
    arguments: dict[str, Any] = {
        "arch": arch,
        "channels": series.shape[-2],
        "length": series.shape[-1],
        "n_out": dls.recipe.num_outputs if n_out is None else n_out,
        "dropout": dropout,
        "padded": any(isinstance(tfm, PadTo) for pipeline in dls.recipe.inputs for tfm in pipeline.tfms),
        **(config or {}),
    }
    is_ours = isinstance(arch, str)
    with first_weights(dls):
        model = series_model(**arguments) if isinstance(arch, str) else arch(arguments["channels"], arguments["n_out"])
    body = getattr(model, "body", None)
    if isinstance(body, MiniRocket):
        body.fit(_some_series(dls))
    return Learner(
        dls,
        model,
        splitter=series_splitter if is_ours else one_group,
        spec=ModelSpec("series_model", arguments) if is_ours else None,
        **with_defaults(options, metrics=_metric_of(target)),
    )


@known_arguments(LearnerOptions)
def forecast_learner(
    dls: TSForecastDataLoaders,
    arch: str | Callable[..., nn.Module] = "NLinear",
    *,
    config: dict[str, Any] | None = None,
    **options: Unpack[LearnerOptions],
) -> ForecastLearner:
    """Returns a Learner that forecasts what follows a window.

    Args:
        dls: windows.
        arch: a name in `dist_ai.timeseries.models.forecasters`: ``"NLinear"``, ``"DLinear"``, ``"MLP"``, ``"LSTM"``, ``"GRU"``,
            ``"PatchTST"``; or a function of (channels, context, horizon, targets, known) that returns a model from the past, and
            what is known of the future, to (batch, targets, horizon).
        config: options of the forecaster: ``{"hidden": 512}``, or ``{"normalize": None}``; see `forecast_model`.
        options: see `LearnerOptions`; the loss is by default `ForecastLoss("l1")`, and metrics are the mean absolute and the root
            mean squared error. All metrics, yours too, are in the units of the data; the loss is in the scale of the model.

    NLinear, DLinear and PatchTST make use of what is known of the future, and of the past look at the targets alone: where the
    loaders have further inputs they warn, and MLP, LSTM or GRU are to be taken.

    Raises:
        ConfigError: the loaders are of no windows, or there is no such architecture.
    """
    if not isinstance(dls, TSForecastDataLoaders):
        raise ConfigError(
            f"{type(dls).__name__} holds no windows to forecast from; make them with TSForecastDataLoaders, or tell what a "
            "series is with ts_learner"
        )
    _check_model(arch, config)
    windows = dls.windows
    shape: dict[str, Any] = {
        "channels": windows.series[0].values.shape[0],
        "context": windows.context,
        "horizon": windows.horizon,
        "targets": windows.targets,
        "known": len(windows.known),
    }
    with first_weights(dls):
        model = forecast_model(arch, **shape, **(config or {})) if isinstance(arch, str) else arch(*shape.values())
    given = with_defaults(options, metrics=[mae, rmse])
    loss = given.get("loss_func")
    if windows.has_gaps and loss is not None and not getattr(loss, "leaves_out_missing", False):
        raise ConfigError(
            f"loss_func={loss!r:.100} gives NaN where a target is missing; take ForecastLoss('l1'), 'mse' or 'huber', which "
            "leave such steps out, fill the data before, or say that yours does so: leaves_out_missing = True"
        )
    spec = ModelSpec("forecast_model", {"arch": arch, **shape, **(config or {})}) if isinstance(arch, str) else None
    learn = ForecastLearner(dls, model, spec=spec, **given)
    if isinstance(arch, str) and learn.collectives.world.is_main:
        _warn_of_unseen(arch, dls)
    return learn


@register_learner("forecast_model")
class ForecastLearner(Learner):
    """A Learner that also forecasts: its predictions, and all metrics, are in the units of the data.

    Only the loss, what `with_input=True` gives and what `act=` takes are in the scale in which the model works.
    """

    dls: TSForecastDataLoaders

    def _measured(self, given: Any) -> list[Metric | GatheredMetric]:
        """Returns the metrics, in the units of the data; the parts of the loss stay as they are."""
        measured = super()._measured(given)
        return [each if isinstance(each, PartOfLoss) else in_units(each, self._scale) for each in measured]

    def _scale(self) -> list[Any]:
        """Returns the transforms that, undone, bring a batch of forecasts to the units of the data that is there now."""
        recipe = self.dls.recipe
        return [*recipe.targets[0].tfms, *map(OfEach, recipe.item_tfms.tfms), *recipe.batch_tfms.tfms]

    def get_preds(self, *args: Any, act: Any = None, **options: Any) -> tuple[Any, ...]:
        """Returns (predictions, targets), (windows, targets, horizon) each, in the units of the data, float64.

        Args:
            args, options: see `Learner.get_preds`.
            act: makes of the model's raw output, which is in its scale, what is returned.

        Where a target is missing it is NaN.
        """
        found = [*super().get_preds(*args, act=act, **options)]
        first = int(bool(options.get("with_input")))
        chosen = range(first + (act is not None), first + 2 + bool(options.get("with_decoded")))
        for i in chosen:
            found[i] = self._in_units(found[i])
        return tuple(found)

    def tta(self, *args: Any, **options: Any) -> tuple[torch.Tensor, Any]:
        """Returns `Learner.tta` in the units of the data."""
        pred, target = super().tta(*args, **options)
        return self._in_units(pred), self._in_units(target)

    def predict(self, item: Any) -> tuple[Any, Any, Any]:
        """Returns the forecast of one window three times, (targets, horizon), as `Learner.predict` has three: all in units."""
        label, decoded, output = super().predict(item)
        return label, self._in_units(decoded), self._in_units(output)

    def _in_units(self, found: Any) -> Any:
        return to_units(found, self._scale()) if isinstance(found, torch.Tensor) else found

    def forecast(self, history: Any, future: Any = None) -> Any:
        """Returns what follows a history, in the units of the data.

        Args:
            history: an array (channels, length), of which the last `context` steps count; or, of a model that was trained from a
                data frame, a frame with the same columns and steps of the same length, in which rows without any target at the
                end say what is known of the future.
            future: with an array, what is known of the future: (known channels, horizon).

        Of an array it is an array (targets, horizon). Of a frame it is a frame with a row for each step that is forecast: the
        series' name, the time, and a column for each target.

        Raises:
            DataError: the history is empty, too short, has gaps, or lacks a column; what should be known of the future is not, or
                does not follow.
        """
        if future is not None and self.dls.n_inp == 1:
            raise DataError(
                "the model was trained without anything known of the future, so it can do nothing with future=; how far it "
                "forecasts is the horizon= of its loaders"
            )
        rows = history if isinstance(history, list | tuple) else [history]
        if not hasattr(history, "columns") and not any(isinstance(row, Mapping) for row in rows[:1]):
            window = Window(history, future) if future is not None else history
            return self._forecasts([window])[0]
        columns = getattr(self.dls, "columns", None)
        if columns is None:
            raise DataError(
                "the model was trained from arrays, or was loaded; give the history as an array (channels, length)"
            )
        if future is not None:
            raise DataError(
                "future= goes with an array; with a frame, what is known of the future is in rows at its end, without targets: "
                "pd.concat([history, future])"
            )
        import pandas as pd

        history = as_pandas(history)
        require_columns(history, [*(name for name in (columns.time, columns.id) if name), *columns.channels])
        parts = series_by_id(history, columns.id) if columns.id else [(None, history.reset_index(drop=True))]
        asked = [self._asked(rows, columns, f" of series {name!r}" if columns.id else "") for name, rows in parts]
        tables = []
        for (name, _), (_, times), values in zip(parts, asked, self._forecasts([w for w, _ in asked]), strict=True):
            table = {columns.id: [name] * len(times)} if columns.id else {}
            table |= {columns.time or "step": times, **dict(zip(columns.targets, values, strict=True))}
            tables.append(pd.DataFrame(table))
        return pd.concat(tables, ignore_index=True)

    def backtest(self, season: int | None = None) -> Any:
        """Returns the errors of forecasting the validation windows, in the units of the data, by how far ahead they are.

        Args:
            season: beside them, the errors of repeating the values of so many steps ago; such as 24 for the same hour of the day
                before.

        The answer is a data frame with a row for each step ahead and one for all of them: ``mae``, ``rmse``, and with a season
        ``seasonal_mae``; the same on every rank. Targets that are missing are left out.

        Raises:
            ConfigError: a season is longer than the context.
        """
        import pandas as pd

        pred, target = self.get_preds()
        errors = {"mae": _by_step((pred - target).abs()), "rmse": np.sqrt(_by_step((pred - target).square()))}
        if season is not None:
            errors["seasonal_mae"] = _by_step(self._seasonal_errors(season))
        steps = [*range(1, len(errors["mae"])), "all"]
        return pd.DataFrame({"step": steps, **errors})

    def _seasonal_errors(self, season: int) -> torch.Tensor:
        windows, part = self.dls.windows, self.dls.valid_ds
        require_steps(season=season)
        if season > windows.context:
            raise ConfigError(f"season={season}: expected 1 to context={windows.context} steps")
        found = []
        for i in range(len(part)):
            past, _, target = part.item(i)
            again = np.resize(past[windows.targets][:, -season:].T, (windows.horizon, len(windows.targets))).T
            found.append(np.abs(again - target))
        return torch.from_numpy(np.stack(found))

    def _asked(self, rows: Any, columns: Any, where: str) -> tuple[Window, Any]:
        """Returns the window from which a frame's last steps are forecast, and the times of the forecast."""
        windows = self.dls.windows
        there = np.flatnonzero(rows[columns.targets].notna().any(axis=1).to_numpy())
        if not len(there):
            raise DataError(
                f"none of the {len(rows)} row(s){where} has a value of {', '.join(columns.targets)}: there is no history to "
                "forecast from; give the rows that came before"
            )
        end = int(there[-1]) + 1
        past, future = rows.iloc[:end], rows.iloc[end : end + windows.horizon]
        if end < windows.context:
            raise DataError(
                f"a history{where} of {end} step(s), and the model forecasts from the last {windows.context}; give it more"
            )
        if columns.time:  # what is said of the future has to follow the past: their steps are looked at together
            times = times_of(rows[columns.time].iloc[: end + windows.horizon], where, regular=True)
            self._require_steps_of_training(times, rows[columns.time], where)
        [series] = long_series(past, time=None, channels=columns.channels, id=None, missing=columns.missing)
        series = series.filled(columns.missing, columns.start)
        known = None
        if columns.known:
            if len(future) < windows.horizon:
                raise DataError(
                    f"{len(future)} row(s){where} come after the last value of {', '.join(columns.targets)}, and "
                    f"{windows.horizon} are forecast; give a row for each of them with {', '.join(columns.known)}, and no target"
                )
            known = channels_of(future, columns.known)
        return Window(series.values, known), _times(
            rows.iloc[: end + windows.horizon], end, columns.time, windows.horizon
        )

    def _require_steps_of_training(self, times: np.ndarray, column: Any, where: str) -> None:
        if len(times) < 2:
            return
        apart, step = self.dls.windows.steps, np.median(np.diff(times))
        if ((apart / 1.5 <= step) & (step <= 1.5 * apart)).any():
            return
        there = " and ".join(map(str, column.iloc[:2]))
        usual = f"{apart[0]:g}" if apart[0] < 1e6 else f"{apart[0] / 1e9:g} s"
        raise DataError(
            f"the steps{where} are as far apart as {there}, and those that the model was trained on {usual}: it forecasts such "
            "steps only; bring the history to them"
        )

    def _forecasts(self, items: list[Any]) -> list[np.ndarray]:
        loader = self.dls.test_dl(items, num_workers=0, world=World(device=device_of(self.model)))
        found: list[np.ndarray] = []
        with self.evaluating():
            for batch in loader:
                raw = self.precision.forward(self.model, tuple(map(plain, parts(batch))))
                told = self.dls.recipe.decode_targets((*parts(batch), decodes(self.loss_func, raw)))
                found += [plain(forecast).numpy() for forecast, *_ in told]
        return found


def _metric_of(target: Any) -> Any:
    if isinstance(target, TensorMultiCategory):
        return accuracy_multi
    return accuracy if isinstance(target, TensorCategory) else mae


def _check_model(arch: Any, config: Any) -> None:
    """Raises `ConfigError` for what names or makes no model, and for options that are none."""
    if not isinstance(arch, str) and (isinstance(arch, nn.Module) or not callable(arch)):
        raise ConfigError(
            f"arch={arch!r:.100}: expected the name of a model, such as 'LSTM', or a function that makes one; one that is made "
            "goes to Learner(dls, model)"
        )
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(f"config={config!r:.100}: expected a dict of options of the model, such as {{'hidden': 64}}")


def _warn_of_unseen(arch: str, dls: TSForecastDataLoaders) -> None:
    """Warns of channels that are neither forecast nor known of the future, if a forecaster does not look at them."""
    windows, columns = dls.windows, dls.columns
    unseen = sorted({*range(windows.series[0].values.shape[0])} - {*windows.targets, *windows.known})
    if unseen and getattr(forecasters.find(arch), "targets_only", False):
        named = [repr(columns.channels[i]) if columns else f"channel {i}" for i in unseen]
        several = [name for name in forecasters if not getattr(forecasters.find(name), "targets_only", False)]
        warnings.warn(
            f"{arch} looks at the past of its targets only, so {', '.join(named)} will change nothing; leave them out, or take a "
            f"forecaster that looks at all: {', '.join(several)}",
            stacklevel=4,
        )


def _times(rows: Any, end: int, time: str | None, horizon: int) -> list[Any]:
    """Returns the times of the steps after the first `end` rows: those that are in the rows, and those that follow them."""
    if time is None:
        return list(range(end, end + horizon))
    dates = _dates(rows[time])
    return [*dates.iloc[end:], *_following(dates, horizon - len(dates) + end)]


def _dates(column: Any) -> Any:
    """Returns a column of times with which one can reckon, in its own time zone."""
    import pandas as pd

    if column.dtype.kind in "iufmM" or isinstance(column.dtype, pd.PeriodDtype | pd.DatetimeTZDtype):
        return column
    counted = column.infer_objects()
    if counted.dtype.kind in "iuf":
        return counted
    try:
        return pd.to_datetime(column)
    except ValueError:  # several offsets from UTC, as of summer and winter
        return pd.to_datetime(column, utc=True)


def _following(dates: Any, num: int) -> list[Any]:
    """Returns the `num` times that follow a column of them."""
    import pandas as pd

    if num <= 0:
        return []
    if len(dates) < 2:
        raise DataError(
            "one row does not tell how far apart the steps are, so the forecast has no times; give the row before it too"
        )
    last, are_dates = dates.iloc[-1], dates.dtype.kind == "M"
    if are_dates and (months := _months_apart(dates)):
        after = pd.offsets.MonthEnd if dates.dt.is_month_end.all() else lambda n: pd.DateOffset(months=n)
        return [last + after(months * (i + 1)) for i in range(num)]
    wall = dates.dt.tz_localize(None) if are_dates else dates
    days = wall.diff().iloc[1:]
    if are_dates and days.nunique() == 1 and days.iloc[0] % pd.Timedelta(days=1) == pd.Timedelta(0):
        # Days of the calendar, of which one has 23 hours and one 25 where clocks are changed.
        return [last + pd.DateOffset(days=days.iloc[0].days * (i + 1)) for i in range(num)]
    steps = dates.diff().iloc[1:]
    step = steps.iloc[-1] if isinstance(dates.dtype, pd.PeriodDtype) else steps.sort_values().iloc[len(steps) // 2]
    return [last + step * (i + 1) for i in range(num)]


def _months_apart(dates: Any) -> int:
    """Returns how many months of the calendar lie between dates, if they follow by months or years; else 0.

    They do if each is the same day of its month, or the last. Of two dates alone that may be chance.
    """
    months = (dates.dt.year * 12 + dates.dt.month).diff().iloc[1:]
    same_day = dates.dt.day.nunique() == 1 or dates.dt.is_month_end.all()
    return int(months.iloc[0]) if len(dates) > 2 and months.nunique() == 1 and months.iloc[0] > 0 and same_day else 0


def _by_step(errors: torch.Tensor) -> np.ndarray:
    """Returns the mean of errors (windows, targets, horizon) at each step, and of all; NaN is left out."""
    return np.append(errors.nanmean((0, 1)).numpy(), errors.nanmean().item())


def _some_series(dls: DataLoaders) -> torch.Tensor:
    """Returns training series from all over the data as the model sees them, not augmented; the same on every rank."""
    part = dls.train_ds
    every = math.ceil(len(part) / _ENOUGH)
    items = [part.item(i) for i in range(0, len(part), every)]
    loader = dls.test_dl(items, bs=len(items), num_workers=0, world=World(device=torch.device("cpu")))
    return plain(parts(loader.one_batch())[0])
