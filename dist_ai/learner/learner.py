"""The Learner: data, a model, a loss and an optimizer, trained together on any number of processes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from dist_ai.callbacks import (
    Callback,
    Checkpointer,
    ParamScheduler,
    ProgressBar,
    Recorder,
    RunLog,
    TensorBoard,
    TrainState,
)
from dist_ai.callbacks.callback import Callbacks
from dist_ai.core.show import show_results
from dist_ai.core.types import plain
from dist_ai.data.loader import DataLoader
from dist_ai.data.loaders import DataLoaders
from dist_ai.distributed.collectives import join, on_main
from dist_ai.distributed.coordination import Decisions
from dist_ai.distributed.environment import World
from dist_ai.distributed.strategies import for_world
from dist_ai.errors import ConfigError, DataError
from dist_ai.export import ModelSpec, load_export, save_export
from dist_ai.learner.gather import GatherPreds
from dist_ai.learner.groups import LearningRate, Splitter, freeze_to, learning_rates, one_group, param_groups
from dist_ai.learner.keeper import Keeper, run_directory
from dist_ai.learner.loop import Cursor, Loop
from dist_ai.losses import activation, decodes, default_loss, loss_metrics
from dist_ai.metrics import as_metrics
from dist_ai.optimizer import Adam, one_cycle
from dist_ai.optimizer.optimizer import AnyOptimizer
from dist_ai.optimizer.schedules import Schedule
from dist_ai.optimizer.torch_optimizer import as_opt_func

__all__ = ["Learner", "load_learner"]


class Learner:
    """Trains `model` on `dls`, the same way on one process and on many.

    Args:
        dls: the data; a pair of loaders (also torch's) will do.
        model: any module; it takes the batch's inputs.
        loss_func: (prediction, *targets) -> mean loss over the batch; by default what the target's type says. See
            `dist_ai.losses.weighted` for one that is no mean over samples.
        opt_func: a recipe such as `Adam`, or a `torch.optim` class.
        lr: learning rate where a fit is given none.
        splitter: makes the parameter groups, for freezing and for learning rates by group.
        cbs: callbacks for every fit.
        metrics: functions of (prediction, target), or `Metric`s, computed in validation; the parts of a `CompositeLoss`
            come after them.
        wd: weight decay; by default the optimizer's.
        moms: momentum at the start, the peak and the end of a one-cycle fit.
        wd_bn_bias: whether normalisation layers and biases decay too.
        train_bn: whether BatchNorm layers learn in frozen groups.
        sync_bn: on several processes, BatchNorm normalises over the global batch, as one process does.
        find_unused_parameters: the model has parameters that take no part in the loss, in some steps at least; several
            processes must know, one need not. Costs one small exchange a step.
        run_dir: where logs, events and checkpoints go, and where a killed program goes on from. By default what
            `dist-ai launch --run-dir` says, else ``runs/<script>``; in an interactive session, and if None, nothing is
            written.
        checkpoint_every_s: seconds between checkpoints.
        checkpoint_every_steps: training steps between checkpoints.
        fresh: begin anew in the run directory, instead of going on with what is there.
        spec: how the model is built, for `export`.
        progress: whether to show a progress bar.

    Attributes:
        model: the model itself, never a wrapper.
        opt: the optimizer, once a fit has begun.
        state: the training state that callbacks share.
        recorder: losses and metrics so far.

    ```python
    learn = Learner(dls, model, metrics=accuracy)
    learn.fit_one_cycle(3, 1e-2)
    ```
    """

    opt: AnyOptimizer

    def __init__(
        self,
        dls: DataLoaders | Sequence[Any],
        model: nn.Module,
        loss_func: Callable[..., torch.Tensor] | None = None,
        *,
        opt_func: Callable[..., Any] = Adam,
        lr: float = 1e-3,
        splitter: Splitter = one_group,
        cbs: Callback | Iterable[Callback] = (),
        metrics: Any = None,
        wd: float | None = None,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        sync_bn: bool = True,
        find_unused_parameters: bool = False,
        run_dir: str | Path | Literal["auto"] | None = "auto",
        checkpoint_every_s: float | None = 30.0,
        checkpoint_every_steps: int | None = None,
        fresh: bool = False,
        spec: ModelSpec | None = None,
        progress: bool = True,
    ) -> None:
        self.dls = dls if isinstance(dls, DataLoaders) else DataLoaders(*dls)
        self.model = model
        self.collectives = join()
        self.strategy = for_world(self.collectives, sync_bn=sync_bn, find_unused_parameters=find_unused_parameters)
        self.decisions = Decisions(self.collectives)
        self.state = TrainState()
        self.loss_func = loss_func if loss_func is not None else self._default_loss()
        _require_mean(self.loss_func)
        self.opt_func = as_opt_func(opt_func)
        self.lr, self.wd, self.moms = lr, wd, moms
        self.splitter, self.wd_bn_bias, self.train_bn = splitter, wd_bn_bias, train_bn
        self.spec = spec
        self.run_dir = run_directory(run_dir)
        self.recorder = Recorder([*as_metrics(metrics), *loss_metrics(self.loss_func)])
        self.callbacks = Callbacks([self.recorder], self)
        if progress:
            self.callbacks.add([ProgressBar()])
        if self.run_dir is not None:
            every = Checkpointer(every_s=checkpoint_every_s, every_steps=checkpoint_every_steps)
            self.callbacks.add([RunLog(), TensorBoard(), every])
        self.callbacks.add(_listed(cbs))
        self._keeper = None if self.run_dir is None else Keeper(self, self.run_dir, fresh=fresh)
        self._num_fits = self._num_epochs = 0
        self._fitting = False
        device = self.dls.device if self.dls.has_data else self.collectives.world.device
        model.to(device)
        if isinstance(self.loss_func, nn.Module):
            self.loss_func.to(device)  # its class weights
        self.strategy.sync(model)

    # ------------------------------------------------------------------------------------------------ training

    def fit(
        self,
        n_epoch: int,
        lr: LearningRate | None = None,
        wd: float | None = None,
        *,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains for `n_epoch` epochs at a constant learning rate.

        Args:
            n_epoch: epochs.
            lr: a number, ``slice(first, last)`` over the parameter groups, or one value each; by default the Learner's.
            wd: weight decay; by default the Learner's.
            cbs: callbacks for this fit only.
            reset_opt: begin with a fresh optimizer; otherwise its moments go on from the last fit.
        """
        self._fit("fit", n_epoch, lr, wd, _listed(cbs), reset_opt)

    def fit_one_cycle(
        self,
        n_epoch: int,
        lr_max: LearningRate | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains for `n_epoch` epochs with the 1cycle policy (Smith, arXiv:1803.09820).

        Args:
            n_epoch: epochs.
            lr_max: the learning rate at the peak; a number, a slice or a value a group.
            div: the rate begins at lr_max / div.
            div_final: and ends at lr_max / div_final.
            pct_start: share of the steps until the peak.
            wd, cbs, reset_opt: see `fit`.
            moms: momentum at the start, the peak and the end; by default the Learner's, if the optimizer has momentum.
        """
        self._prepare_opt(reset_opt)
        peaks = np.array(learning_rates(self.lr if lr_max is None else lr_max, len(self.opt.groups)))
        rates = [one_cycle(peak / div, peak, peak / div_final, pct_start) for peak in peaks.tolist()]
        first, peak, last = moms or self.moms
        schedules: dict[str, Schedule | Sequence[Schedule]] = {"lr": rates}
        # An optimizer made without momentum stays so, unless momenta were asked for.
        if self.opt.has_hyper("mom") and (moms or any(self.opt.get_hyper("mom"))):
            schedules["mom"] = one_cycle(first, peak, last, pct_start)
        facts = {"lr_max": peaks.tolist(), "div": div, "div_final": div_final, "pct_start": pct_start}
        self._fit(
            "fit_one_cycle", n_epoch, peaks.tolist(), wd, [ParamScheduler(schedules), *_listed(cbs)], False, **facts
        )

    def fine_tune(
        self,
        epochs: int,
        base_lr: float = 2e-3,
        *,
        freeze_epochs: int = 1,
        lr_mult: float = 100.0,
        pct_start: float = 0.3,
        div: float = 5.0,
        wd: float | None = None,
        cbs: Callback | Iterable[Callback] = (),
    ) -> None:
        """Trains the new layers for `freeze_epochs`, then all layers for `epochs`, the early ones slower.

        Args:
            epochs: epochs with all layers.
            base_lr: peak learning rate of the new layers; half of it is the last group's afterwards.
            freeze_epochs: epochs with the pretrained layers frozen.
            lr_mult: the first group learns this much slower than the last.
            pct_start, div: of the second fit; see `fit_one_cycle`.
            wd, cbs: of both fits; see `fit`.
        """
        self.freeze()
        self.fit_one_cycle(freeze_epochs, slice(base_lr), pct_start=0.99, wd=wd, cbs=cbs)
        base_lr /= 2
        self.unfreeze()
        self.fit_one_cycle(epochs, slice(base_lr / lr_mult, base_lr), pct_start=pct_start, div=div, wd=wd, cbs=cbs)

    def freeze_to(self, n: int) -> None:
        """Freezes the first `n` parameter groups and unfreezes the others; the optimizer starts afresh."""
        freeze_to(self.model, self.splitter, n, train_bn=self.train_bn)
        self._drop_opt()

    def freeze(self) -> None:
        """Freezes all parameter groups but the last; with a single group, nothing."""
        self.freeze_to(-1 if len(self.splitter(self.model)) > 1 else 0)

    def unfreeze(self) -> None:
        """Unfreezes all parameter groups; the optimizer starts afresh."""
        self.freeze_to(0)

    # ------------------------------------------------------------------------------------------------ evaluation

    def validate(self, dl: DataLoader | None = None) -> list[float]:
        """Returns [loss, *metrics] over the validation data, or over `dl`; the same on every rank."""
        with self._set_aside():
            self._loop().validate(self.dls.valid if dl is None else dl)
        return list(self.recorder.final)

    def get_preds(
        self, dl: DataLoader | None = None, *, with_decoded: bool = False, with_loss: bool = False
    ) -> tuple[Any, ...]:
        """Returns (predictions, targets) for the validation data or `dl`, in the order of the data, all on every rank.

        Args:
            dl: what to predict; by default the validation loader. It must not be shuffled.
            with_decoded: also return the decoded predictions (class indices).
            with_loss: also return the loss of each sample.

        Predictions have gone through the loss's activation (probabilities). Targets are None where there are none.
        All are on the CPU, one row a sample.
        """
        loader = self.dls.valid if dl is None else dl
        if loader.shuffle:
            raise ConfigError(
                "get_preds keeps the order of the data, and this loader shuffles it; give one with shuffle=False"
            )
        gather = GatherPreds(self.loss_func, with_loss=with_loss)
        with self._set_aside(), self._temporary([gather]):
            self._loop().validate(loader)
        raw, targets, losses = gather.result()
        result: tuple[Any, ...] = (activation(self.loss_func, raw), targets)
        result += (plain(decodes(self.loss_func, raw)),) if with_decoded else ()
        return result + ((losses,) if with_loss else ())

    def predict(self, item: Any) -> tuple[Any, Any, torch.Tensor]:
        """Returns (label, decoded output, output after activation) for one item, such as an image's path."""
        loader = self.dls.test_dl([item], bs=1, num_workers=0, world=World(device=self._device()))
        with self._set_aside(), torch.inference_mode():
            self.model.eval()
            raw = self.model(*plain(loader.one_batch()))
        decoded = decodes(self.loss_func, raw)
        labels = self.dls.recipe.decode_targets((decoded,)) if self.dls.recipe.targets else (decoded,)
        return labels[0][0], plain(decoded)[0].cpu(), activation(self.loss_func, raw)[0].cpu()

    def show_results(self, max_n: int = 9) -> Any:
        """Returns a figure of the first validation samples with their targets and predictions.

        Returns None where the data's types have no way to be shown, or it is not known how to undo its transforms.
        """
        if not self.dls.has_recipe:
            return None
        batch = self.dls.valid.one_batch()
        inputs, targets = batch[: self.dls.n_inp], batch[self.dls.n_inp :]
        if len(inputs) != 1 or len(targets) != 1 or show_results.find(type(inputs[0]), type(targets[0])) is None:
            return None
        with self._set_aside(), torch.inference_mode():
            self.model.eval()
            decoded = decodes(self.loss_func, self.model(*plain(inputs)))
        few = tuple(each[:max_n] for each in batch)
        recipe = self.dls.recipe
        shown = recipe.decode_inputs(few[:1])[0]
        truth, guess = (recipe.decode_targets((y[:max_n],))[0] for y in (few[1], decoded))
        return show_results(inputs[0], targets[0], list(zip(shown, truth, strict=True)), guess)

    # ------------------------------------------------------------------------------------------------ saving

    def export(self, directory: str | Path = "export") -> Path:
        """Writes the model and all that is needed to predict with it to one directory; returns it.

        The same names, shapes and dtypes whatever number of processes trained it; `load_learner` and
        `dist_ai.export.Predictor` read it. Rank 0 writes; all wait, and fail if it fails. Collective.
        """
        self.strategy.sync_buffers(self.model)

        def write() -> None:
            save_export(directory, model=self.model, spec=self.spec, recipe=self.dls.recipe, loss_func=self.loss_func)

        on_main(self.collectives, write, what=f"the export to {directory}")
        return Path(directory)

    def save_checkpoint(self) -> None:
        """Writes a checkpoint to the run directory; for callbacks, in `after_batch` of a training batch. Collective.

        Raises:
            ConfigError: there is no run directory, or no training batch has just ended.
        """
        if self._keeper is None:
            raise ConfigError("there is no run directory to write a checkpoint to; give Learner(run_dir=...)")
        if not self.state.training or self.state.share is None:
            raise ConfigError(
                "a checkpoint stands between two training steps; write it in after_batch, when state.training"
            )
        self._keeper.save(Cursor(self.state.epoch, self.state.step + 1))

    # ------------------------------------------------------------------------------------------------ inside

    def _fit(
        self,
        method: str,
        n_epoch: int,
        lr: LearningRate | None,
        wd: float | None,
        cbs: list[Callback],
        reset_opt: bool,
        **facts: Any,
    ) -> None:
        n_epoch = int(n_epoch)
        if n_epoch < 0:
            raise ConfigError(f"{method}({n_epoch}): a number of epochs is 0 or more")
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError(f"{method}: all parameters of the model are frozen; learn.unfreeze() lets them learn")
        self._prepare_opt(reset_opt)
        rates = learning_rates(self.lr if lr is None else lr, len(self.opt.groups))
        self.opt.set_hyper("lr", rates)
        if (decay := self.wd if wd is None else wd) is not None:
            self.opt.set_hyper("wd", decay)
        self._num_fits += 1
        self.recorder.fit = self._num_fits
        epochs_before, self._num_epochs = self._num_epochs, self._num_epochs + n_epoch
        start: Cursor | None = Cursor()
        with self._temporary(cbs):
            if self._keeper is not None:
                facts = {"method": method, "n_epoch": n_epoch, "lr": rates, **facts, **self._facts()}
                start = self._keeper.begin(facts)
            if start is None:
                return
            self._fitting = True
            try:
                self._loop(epochs_before).fit(n_epoch, start)
            finally:
                self._fitting = False
            if self._keeper is not None:
                self._keeper.save(Cursor(n_epoch), finished=True)

    def _facts(self) -> dict[str, Any]:
        """Returns what a fit's numbers depend on beside its own arguments: a run that goes on must have the same."""
        train = self.dls.train
        hypers = self.opt.state()[1]["hypers"]
        return {
            "num_samples": train.num_samples,
            "bs": train.bs,
            "seed": self.dls.seed,
            "item_tfms": _without_address(repr(train.fetcher.item_tfms)),
            "batch_tfms": _without_address(repr(train.stage.pipeline)),
            "loss": getattr(self.loss_func, "__name__", type(self.loss_func).__name__),
            "optimizer": self.opt.kind,
            **{name: [group[name] for group in hypers] for name in hypers[0] if name != "lr"},
            "frozen parameters": sum(not p.requires_grad for p in self.model.parameters()),
        }

    def _loop(self, epochs_before: int = 0) -> Loop:
        return Loop(
            model=self.model,
            dls=self.dls,
            loss_func=self.loss_func,
            opt=getattr(self, "opt", None),  # type: ignore[arg-type]  # validation needs none
            strategy=self.strategy,
            state=self.state,
            events=self.callbacks,
            decisions=self.decisions,
            seed=self.dls.seed if self.dls.has_data else 0,  # without data nothing is drawn
            epochs_before=epochs_before,
        )

    def _prepare_opt(self, reset: bool) -> None:
        if reset or not hasattr(self, "opt"):
            groups = param_groups(self.model, self.splitter, wd_bn_bias=self.wd_bn_bias)
            self.opt = self.opt_func(groups, lr=self.lr)

    def _drop_opt(self) -> None:
        if hasattr(self, "opt"):
            del self.opt

    def _default_loss(self) -> Any:
        if not self.dls.has_data:
            raise ConfigError("no loss_func was given and there is no data to infer it from")
        target = self.dls.one_batch()[self.dls.n_inp]
        if default_loss.find(type(target)) is None:
            raise ConfigError(
                f"no loss_func was given, and targets of type {type(target).__name__} have no default one; "
                "give Learner(..., loss_func=...)"
            )
        return default_loss(target)

    def _device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @contextlib.contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Lends the model and the state to something else in the middle of a fit, and puts them back afterwards."""
        if not self._fitting:
            yield
            return
        state, votes = dict(vars(self.state)), dict(vars(self.decisions))
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            yield
        finally:
            vars(self.state).update(state)
            vars(self.decisions).update(votes)
            for module, training in modes:
                module.training = training

    @contextlib.contextmanager
    def _temporary(self, cbs: list[Callback]) -> Iterator[None]:
        self.callbacks.add(cbs)
        try:
            yield
        finally:
            self.callbacks.remove(cbs)


def load_learner(directory: str | Path) -> Learner:
    """Returns a Learner with an exported model, ready to predict; set its `dls` to train it further.

    Raises:
        ArtifactError: the export is missing, damaged, or names what this program does not have.
    """
    artifact = load_export(directory)
    dls = DataLoaders.without_data(artifact.recipe)
    loss_func = artifact.loss_func if artifact.loss_func is not None else _no_loss
    return Learner(dls, artifact.model, loss_func, spec=artifact.spec, run_dir=None)


def _no_loss(*_: Any) -> torch.Tensor:
    raise DataError("the export did not say which loss the model was trained with; set learn.loss_func")


def _require_mean(loss_func: Any) -> None:
    options = getattr(loss_func, "keywords", vars(loss_func) if hasattr(loss_func, "__dict__") else {})
    if (reduction := options.get("reduction", "mean")) in ("sum", "none"):
        raise ConfigError(
            f"the loss function has reduction={reduction!r}; training needs the mean over the samples, which is the same on "
            "any number of workers: give one with reduction='mean'"
        )


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _listed(cbs: Callback | Iterable[Callback]) -> list[Callback]:
    return [cbs] if isinstance(cbs, (Callback, type)) else list(cbs)
