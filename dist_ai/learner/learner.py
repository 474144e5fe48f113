"""The Learner: data, a model, a loss and an optimizer, trained together on any number of processes."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Never

import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.callbacks import (
    AutoMicrobatch,
    Callback,
    Checkpointer,
    GradientAccumulation,
    ParamScheduler,
    Phase,
    ProgressBar,
    Recorder,
    RemoteControl,
    RunLog,
    SkippedSamples,
    TensorBoard,
    TrainState,
)
from dist_ai.callbacks.callback import Callbacks
from dist_ai.callbacks.picture import training_loop
from dist_ai.checkpoint import Checkpoint, KeepBest, Run, write_checkpoint
from dist_ai.core.nested import map_tensors, parts
from dist_ai.core.show import show_results
from dist_ai.core.transform import Transform
from dist_ai.core.types import plain
from dist_ai.data.loader import known_length
from dist_ai.data.loaders import AnyLoader, DataLoaders, as_loader
from dist_ai.data.looking import as_target, decoded_samples, first_samples, one_or_several, sized, spread_samples
from dist_ai.distributed.collectives import join, on_main, require_same
from dist_ai.distributed.coordination import Decision, Decisions
from dist_ai.distributed.environment import World
from dist_ai.distributed.sharded import gather, is_sharded
from dist_ai.distributed.strategies import AnyConfig, PrecisionName, choose, for_world, precision_of
from dist_ai.errors import ConfigError, DataError
from dist_ai.export import ModelSpec, save_export
from dist_ai.export.artifact import load_tensors
from dist_ai.learner.arguments import as_dataloaders, check_loss, check_model, check_opt_func, refuse_unknown
from dist_ai.learner.batch import Collaborators, back_propagate
from dist_ai.learner.gather import GatherPreds
from dist_ai.learner.groups import (
    LearningRate,
    Splitter,
    as_optimizer,
    freeze_to,
    learning_rates,
    one_group,
    param_groups,
)
from dist_ai.learner.keeper import Beginning, Keeper, checkpoints_at, layout_of_state, run_directory
from dist_ai.learner.length import Length, Steps
from dist_ai.learner.loop import Cursor, Loop
from dist_ai.learner.lr_finder import LRFinder, LRFinding, random_states, set_random_states
from dist_ai.learner.overview import overview
from dist_ai.learner.summary import ModelSummary, summarize
from dist_ai.losses import activation, decodes, default_loss, loss_metrics
from dist_ai.metrics import as_metrics
from dist_ai.optimizer import Adam, exponential, flat_cos, one_cycle, sgdr
from dist_ai.optimizer.optimizer import AnyOptimizer
from dist_ai.optimizer.schedules import Schedule
from dist_ai.optimizer.torch_optimizer import as_opt_func

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Learner"]


class Learner:
    """Trains `model` on `dls`, the same way on one process and on many.

    Args:
        dls: the data; a pair of loaders (also torch's) will do, or one, for training alone.
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
        strategy: how several processes hold the model: ``"ddp"`` (each holds all of it), ``"fsdp"`` (they share it) or
            their options, `DDP(...)` and `FSDP(...)`; `TensorParallel(...)` has groups of processes compute each layer
            together. ``"auto"`` chooses by the model's size and the devices' memory;
            ``learn.strategy.why`` says why.
        run_dir: where logs, events and checkpoints go, and where a killed program goes on from. By default what
            `dist-ai launch --run-dir` says, else ``runs/<script>``; in an interactive session, and if None, nothing is
            written. With a URI such as ``s3://bucket/cats`` checkpoints go there, and the rest to ``runs/cats``.
        checkpoint_every_s: seconds between checkpoints.
        checkpoint_every_steps: training steps between checkpoints.
        keep_last: how many checkpoints of an unfinished fit stay; those at the ends of fits always do.
        keep_best: also write one at the end of each epoch, and keep the best of them: ``KeepBest("accuracy", count=3)``.
        fresh: begin anew in the run directory, instead of going on with what is there.
        precision: in which type the model computes: ``"fp32"``, ``"tf32"``, ``"bf16"`` or ``"fp16"``; see
            `dist_ai.distributed.strategies.precision`.
        spec: how the model is built, for `export`.
        progress: whether to show a progress bar.

    Attributes:
        model: the model itself, never a wrapper.
        opt: the optimizer, made when it is first needed; assign another (also torch's) to train with that.
        state: the training state that callbacks share.
        recorder: losses and metrics so far.

    ```python
    learn = Learner(dls, model, metrics=accuracy)
    learn.fit_one_cycle(3, 1e-2)
    ```
    """

    def __init__(
        self,
        dls: DataLoaders | Sequence[Any] | AnyLoader | TorchDataLoader[Any],
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
        strategy: AnyConfig = "auto",
        run_dir: str | Path | Literal["auto"] | None = "auto",
        checkpoint_every_s: float | None = 30.0,
        checkpoint_every_steps: int | None = None,
        keep_last: int = 2,
        keep_best: KeepBest | None = None,
        fresh: bool = False,
        precision: PrecisionName = "fp32",
        spec: ModelSpec | None = None,
        progress: bool = True,
        **unknown: Never,
    ) -> None:
        refuse_unknown(unknown, Learner.__init__)
        self.dls = as_dataloaders(dls)
        check_model(model)
        check_opt_func(opt_func)
        self.model = model
        self._opt: AnyOptimizer | None = None
        self._opt_is_given = False
        self.collectives = join()
        choice = choose(strategy, model, self.collectives)
        self.strategy = for_world(self.collectives, choice.config, sync_bn=sync_bn, why=choice.why)
        self.data_collectives = self.strategy.data_collectives
        for loader in self.dls if self.dls.has_data else ():
            loader.deal_out_to(self.data_collectives.world)
        self.decisions = Decisions(self.collectives)
        self.state = TrainState()
        self.loss_func = loss_func if loss_func is not None else self._default_loss()
        check_loss(self.loss_func)
        self.opt_func = as_opt_func(opt_func)
        self.lr: LearningRate = lr
        self.wd, self.moms = wd, moms
        self.splitter, self.wd_bn_bias, self.train_bn = splitter, wd_bn_bias, train_bn
        self.spec = spec
        self.run_dir = run_directory(run_dir)
        self.recorder = Recorder([*as_metrics(metrics), *loss_metrics(self.loss_func)])
        self.callbacks = Callbacks([self.recorder, SkippedSamples()], self)
        if progress:
            self.callbacks.add([ProgressBar()])
        if self.run_dir is not None:
            every = Checkpointer(
                every_s=checkpoint_every_s, every_steps=checkpoint_every_steps, every_epoch=keep_best is not None
            )
            self.callbacks.add([RunLog(), TensorBoard(), RemoteControl(), every])
        self.callbacks.add(_listed(cbs))
        self._keeper = None
        if self.run_dir is not None:
            run = Run(self.run_dir, checkpoints_at(run_dir), keep=keep_last, keep_best=keep_best)
            self._keeper = Keeper(self, run, fresh=fresh)
        self._num_fits = self._num_epochs = 0
        self._fitting = False
        self.device = self.dls.device if self.dls.has_data else self.collectives.world.device
        self.precision = precision_of(precision, self.device, self.data_collectives.world.world_size)
        if isinstance(self.loss_func, nn.Module):
            self.loss_func.to(self.device)  # its class weights
        self._require_same()
        self.strategy.prepare(model, self.device)

    def __repr__(self) -> str:
        return overview(
            self.model,
            self.dls,
            self.callbacks,
            loss=self.loss_func,
            optimizer=self.opt_func if self._opt is None else self._opt,
            metrics=[metric.name for metric in self.recorder.metrics],
            precision=self.precision.name,
            device=self._device(),
            run_dir=self.run_dir,
        )

    # ------------------------------------------------------------------------------------------------ training

    def fit(
        self,
        n_epoch: int | None = None,
        lr: LearningRate | None = None,
        wd: float | None = None,
        *,
        steps: int | None = None,
        samples: int | None = None,
        time: float | None = None,
        valid_every: int | None = None,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains at a constant learning rate, for so many epochs, steps, samples or seconds.

        Args:
            n_epoch: epochs.
            lr: a number, ``slice(first, last)`` over the parameter groups, or one value each; by default the Learner's.
            wd: weight decay; by default the Learner's.
            steps: updates of the parameters, instead of epochs; the last epoch may be part of one.
            samples: training samples over all ranks, instead; it ends with the step that comes to them.
            time: seconds by rank 0's clock, instead; it ends within half a second's steps of them, and then validates.
            valid_every: steps from one validation to the next; by default an epoch's. The end of the fit is always validated.
            cbs: callbacks for this fit only.
            reset_opt: begin with a fresh optimizer; otherwise its moments go on from the last fit.
        """
        length = Length(n_epoch=n_epoch, steps=steps, samples=samples, time=time)
        self._fit("fit", length, lr, wd, _listed(cbs), reset_opt, valid_every)

    def fit_one_cycle(
        self,
        n_epoch: int | None = None,
        lr_max: LearningRate | None = None,
        *,
        div: float = 25.0,
        div_final: float = 1e5,
        pct_start: float = 0.25,
        wd: float | None = None,
        moms: tuple[float, float, float] | None = None,
        steps: int | None = None,
        samples: int | None = None,
        time: float | None = None,
        valid_every: int | None = None,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains with the 1cycle policy (Smith, arXiv:1803.09820).

        Args:
            n_epoch: epochs.
            lr_max: the learning rate at the peak; a number, a slice or a value a group.
            div: the rate begins at lr_max / div.
            div_final: and ends at lr_max / div_final.
            pct_start: share of the steps until the peak.
            moms: momentum at the start, the peak and the end; by default the Learner's, if the optimizer has momentum.
            wd, steps, samples, time, valid_every, cbs, reset_opt: see `fit`.
        """
        length = Length(n_epoch=n_epoch, steps=steps, samples=samples, time=time)
        self._prepare_opt(reset_opt)
        peaks = learning_rates(self.lr if lr_max is None else lr_max, len(self.opt.groups))
        rates = [one_cycle(peak / div, peak, peak / div_final, pct_start) for peak in peaks]
        first, peak, last = moms or self.moms
        schedules: dict[str, Schedule | Sequence[Schedule]] = {"lr": rates}
        # An optimizer made without momentum stays so, unless momenta were asked for.
        if self.opt.has_hyper("mom") and (moms or any(self.opt.get_hyper("mom"))):
            schedules["mom"] = one_cycle(first, peak, last, pct_start)
        facts = {"lr_max": peaks, "div": div, "div_final": div_final, "pct_start": pct_start}
        scheduled = [ParamScheduler(schedules), *_listed(cbs)]
        self._fit("fit_one_cycle", length, peaks, wd, scheduled, False, valid_every, **facts)

    def fit_flat_cos(
        self,
        n_epoch: int | None = None,
        lr: LearningRate | None = None,
        *,
        div_final: float = 1e5,
        pct_start: float = 0.75,
        wd: float | None = None,
        steps: int | None = None,
        samples: int | None = None,
        time: float | None = None,
        valid_every: int | None = None,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains at a constant learning rate and then lets it fall along a cosine.

        Args:
            n_epoch: epochs.
            lr: the constant rate; a number, a slice or a value a group.
            div_final: the rate ends at lr / div_final.
            pct_start: share of the steps until it begins to fall.
            wd, steps, samples, time, valid_every, cbs, reset_opt: see `fit`.
        """
        length = Length(n_epoch=n_epoch, steps=steps, samples=samples, time=time)
        if not 0 < pct_start < 1:
            raise ConfigError(f"pct_start={pct_start} is the share of the constant part: expected between 0 and 1")
        self._prepare_opt(reset_opt)
        rates = learning_rates(self.lr if lr is None else lr, len(self.opt.groups))
        falls = [flat_cos(rate, rate / div_final, pct_start) for rate in rates]
        facts = {"div_final": div_final, "pct_start": pct_start}
        scheduled = [ParamScheduler({"lr": falls}), *_listed(cbs)]
        self._fit("fit_flat_cos", length, rates, wd, scheduled, False, valid_every, **facts)

    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: LearningRate | None = None,
        *,
        cycle_mult: int = 2,
        wd: float | None = None,
        valid_every: int | None = None,
        cbs: Callback | Iterable[Callback] = (),
        reset_opt: bool = False,
    ) -> None:
        """Trains in cycles, in each of which the learning rate falls along a cosine to 0 (SGDR, arXiv:1608.03983).

        Args:
            n_cycles: how many.
            cycle_len: epochs of the first.
            lr_max: the rate at which each begins; a number, a slice or a value a group.
            cycle_mult: each cycle is so many times as long as the one before it.
            wd, valid_every, cbs, reset_opt: see `fit`.
        """
        if min(n_cycles, cycle_len, cycle_mult) < 1:
            raise ConfigError(f"fit_sgdr({n_cycles}, {cycle_len}, cycle_mult={cycle_mult}): expected 1 or more of each")
        self._prepare_opt(reset_opt)
        peaks = learning_rates(self.lr if lr_max is None else lr_max, len(self.opt.groups))
        lengths = [cycle_len * cycle_mult**cycle for cycle in range(n_cycles)]
        cycles = [sgdr(peak, num_cycles=n_cycles, mult=cycle_mult) for peak in peaks]
        facts = {"n_cycles": n_cycles, "cycle_len": cycle_len, "cycle_mult": cycle_mult}
        scheduled = [ParamScheduler({"lr": cycles}), *_listed(cbs)]
        self._fit("fit_sgdr", Length(n_epoch=sum(lengths)), peaks, wd, scheduled, False, valid_every, **facts)

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

    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        *,
        stop_div: bool = True,
        cbs: Callback | Iterable[Callback] = (),
    ) -> LRFinding:
        """Returns what the loss does while the learning rate grows, with suggestions, and leaves everything as it was.

        Weights, optimizer, callbacks and randomness are those before it. The curve and the suggestions are the same on any
        number of processes; a program that is run again in its run directory gets the same ones.

        Args:
            start_lr, end_lr: from where to where the rate grows, evenly in ratio.
            num_it: in how many steps.
            stop_div: end when the loss diverges.
            cbs: callbacks for this only.

        Callbacks of the phases PREPARE and CHANGE take part; those that record, report and save do not.

        ```python
        learn.fit_one_cycle(3, learn.lr_find().valley)
        ```
        """
        if not 0 < start_lr < end_lr:
            raise ConfigError(f"lr_find({start_lr}, {end_lr}): expected 0 < start_lr < end_lr")
        if num_it < 2:
            raise ConfigError(f"lr_find(num_it={num_it}): expected 2 or more")
        if self._fitting:
            raise ConfigError("lr_find was called in the middle of a fit; call it before or after one")

        def find() -> dict[str, Any]:
            finder = LRFinder(stop_div=stop_div)
            with self.added_cbs(cbs), self._nothing_happened():
                taking_part = [each for each in self.callbacks if each.phase < Phase.RECORD]
                grows = ParamScheduler({"lr": exponential(start_lr, end_lr)})
                events = Callbacks([*taking_part, grows, finder], self)
                self._loop(self._steps(), events=events).fit(Length(steps=num_it), Cursor())
            return {"lrs": finder.lrs, "losses": finder.losses}

        facts = {"start_lr": start_lr, "end_lr": end_lr, "num_it": num_it, "stop_div": stop_div}
        facts |= self._facts(self._steps())
        curve = find() if self._keeper is None else self._keeper.result("lr_find", facts, find)
        return LRFinding.of(curve["lrs"], curve["losses"], num_it)

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

    @property
    def opt(self) -> AnyOptimizer:
        """The optimizer, made by `opt_func` when it is first needed."""
        if self._opt is None:
            groups = param_groups(self.model, self.splitter, wd_bn_bias=self.wd_bn_bias)
            rates = learning_rates(self.lr, len(groups))
            self._opt = self.opt_func(groups, lr=rates[-1])
            self._opt.set_hyper("lr", rates)
        return self._opt

    @opt.setter
    def opt(self, given: AnyOptimizer | torch.optim.Optimizer) -> None:
        self._opt, self._opt_is_given = as_optimizer(self.model, given), True
        rates = self._opt.get_hyper("lr")  # those it was made with, unless a fit is given others
        self.lr = rates if len(rates) > 1 else rates[0]

    def to_fp32(self) -> Learner:
        """Lets the model compute in float32 from now on; returns the Learner."""
        return self._to("fp32")

    def to_bf16(self) -> Learner:
        """Lets the model compute in bfloat16 from now on, where that is safe; returns the Learner."""
        return self._to("bf16")

    def to_fp16(self) -> Learner:
        """Lets the model compute in float16 from now on, where that is safe, with a scaled loss; returns the Learner."""
        return self._to("fp16")

    def _to(self, precision: PrecisionName) -> Learner:
        self.precision = precision_of(precision, self.device, self.data_collectives.world.world_size)
        return self

    # ------------------------------------------------------------------------------------------------ callbacks

    def add_cbs(self, cbs: Callback | Iterable[Callback]) -> Learner:
        """Attaches callbacks to all fits from now on; returns the Learner."""
        self.callbacks.add(_listed(cbs))
        return self

    def add_cb(self, cb: Callback) -> Learner:
        """Attaches a callback; see `add_cbs`."""
        return self.add_cbs([cb])

    def remove_cbs(self, cbs: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Learner:
        """Detaches callbacks, or all of a class; returns the Learner.

        Raises:
            ConfigError: one of them is not attached.
        """
        gone: list[Callback] = []
        for cb in [cbs] if isinstance(cbs, Callback | type) else cbs:
            found = [each for each in self.callbacks if each is cb or (isinstance(cb, type) and isinstance(each, cb))]
            if not found:
                there = ", ".join(type(each).__name__ for each in self.callbacks)
                raise ConfigError(f"{getattr(cb, '__name__', cb)} is not attached; there are {there}")
            gone += found
        self.callbacks.remove(gone)
        return self

    def remove_cb(self, cb: Callback | type[Callback]) -> Learner:
        """Detaches a callback, or all of a class; see `remove_cbs`."""
        return self.remove_cbs([cb])

    @contextlib.contextmanager
    def added_cbs(self, cbs: Callback | Iterable[Callback]) -> Iterator[Learner]:
        """Attaches callbacks for the block, and detaches them on every way out of it."""
        listed = _listed(cbs)
        self.callbacks.add(listed)
        try:
            yield self
        finally:
            self.callbacks.remove(listed)

    @contextlib.contextmanager
    def removed_cbs(self, cbs: Callback | type[Callback] | Iterable[Callback | type[Callback]]) -> Iterator[Learner]:
        """Detaches callbacks, or all of a class, for the block, and attaches them again on every way out of it."""
        before = list(self.callbacks)
        self.remove_cbs(cbs)
        after = {id(each) for each in self.callbacks}
        try:
            yield self
        finally:
            self.callbacks.add(each for each in before if id(each) not in after)

    def backward(self, loss: torch.Tensor) -> None:
        """Back-propagates a batch's loss as the loop does, for a callback that then raises `CancelBackward`.

        Args:
            loss: mean over this rank's share, like ``state.loss``; it counts by its share of the step, and in fp16 it is scaled.
        """
        back_propagate(loss, self.state, self.strategy, self.precision)

    # ------------------------------------------------------------------------------------------------ evaluation

    def validation_loader(self, dl: AnyLoader | TorchDataLoader[Any] | None) -> AnyLoader:
        """Returns the loader that a method was given, or else that of the validation data."""
        if dl is None:
            if self.dls.valid is None:
                raise ConfigError(
                    "there is no validation data; give DataLoaders(train, valid), or a loader to this method"
                )
            return self.dls.valid
        loader = as_loader(dl, split_idx=1)
        loader.deal_out_to(self.data_collectives.world)
        return loader

    def validate(self, dl: AnyLoader | TorchDataLoader[Any] | None = None) -> list[float]:
        """Returns [loss, *metrics] over the validation data, or over `dl`; the same on every rank.

        Raises:
            DataError: there are no targets to measure with.
        """
        loader = self.validation_loader(dl)
        with self._set_aside():
            self._loop().validate(loader)
        final = list(self.recorder.final)  # empty where a callback cancelled
        # Looked at only when no loss came out: it reads a sample.
        if final and math.isnan(final[0]) and not parts(first_samples(loader, 1))[self.dls.n_inp :]:
            raise DataError(
                "there are no targets to hold predictions against; of new items with their labels the loader is "
                "dls.test_dl(items, with_labels=True), and get_preds(dl) predicts without"
            )
        return final

    def get_preds(
        self,
        dl: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        with_decoded: bool = False,
        with_loss: bool = False,
    ) -> tuple[Any, ...]:
        """Returns (predictions, targets) for the validation data or `dl`, in the order of the data, all on every rank.

        Args:
            dl: what to predict; by default the validation loader. It must not be shuffled.
            with_decoded: also return the decoded predictions (class indices).
            with_loss: also return the loss of each sample.

        Predictions have gone through the loss's activation (probabilities). Targets are None where there are none.
        All are on the CPU, one row a sample. Several outputs, or targets, come as the model, or the data, has them: a tuple,
        a list or a dict of tensors.
        """
        raw, targets, losses = self._predictions(self.validation_loader(dl), with_loss=with_loss)
        result: tuple[Any, ...] = (activation(self.loss_func, raw), targets)
        result += (plain(decodes(self.loss_func, raw)),) if with_decoded else ()
        return result + ((losses,) if with_loss else ())

    def tta(
        self,
        dl: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        n: int = 4,
        beta: float = 0.25,
        use_max: bool = False,
        views: Iterable[Transform] | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """Returns (predictions, targets), averaged over augmented versions of each sample (test-time augmentation).

        Args:
            dl: what to predict; by default the validation loader. It must not be shuffled.
            n: augmented versions, made by the transforms of training.
            beta: how much the prediction for the sample itself counts beside their mean.
            use_max: take the largest of the two instead.
            views: batch transforms each of which makes one version, instead of the `n` that training's draw: nothing is random
                then. `dist_ai.vision.flip_views()` and `dihedral_views()` are such.

        Predictions have gone through the loss's activation. The same on any number of ranks.
        """
        loader = self.validation_loader(dl)
        if n < 1:
            raise ConfigError(f"tta(n={n}): expected 1 or more")
        raw, targets, _ = self._predictions(loader)
        if not isinstance(raw, torch.Tensor):
            raise ConfigError(f"tta: the model returns a {type(raw).__name__}; expected one tensor, to average")
        itself = activation(self.loss_func, raw)
        if views is None:
            augmented = loader.new(split_idx=0, drop_last=False)
            versions = [(augmented, epoch) for epoch in range(n)]  # each with draws of its own
        else:
            versions = [(loader.new(batch_tfms=[view, *loader.stage.pipeline.tfms]), 0) for view in views]
        if not versions:
            raise ConfigError("tta(views=[]): expected at least one transform")
        total = torch.zeros_like(itself)
        for version, epoch in versions:
            total += activation(self.loss_func, self._predictions(version, epoch=epoch)[0])
        mean = total / len(versions)
        return (torch.maximum(mean, itself) if use_max else torch.lerp(mean, itself, beta)), targets

    def predict(self, item: Any) -> tuple[Any, Any, Any]:
        """Returns (label, decoded output, output after activation) for one item, such as an image's path.

        Where a model predicts several targets, such as boxes and their labels, each of the three has a part for each.
        """
        loader = self.dls.test_dl([item], bs=1, num_workers=0, world=World(device=self._device()))
        with self._set_aside(), torch.inference_mode():
            self.model.eval()
            batch = parts(loader.one_batch())
            raw = self.precision.forward(self.model, tuple(map(plain, batch)))
        decoded = decodes(self.loss_func, raw)
        recipe = self.dls.recipe
        labels = recipe.decode_targets((*batch, *recipe.as_targets(decoded, batch)))[0]
        first = partial(map_tensors, lambda tensor: tensor[0].cpu())
        return one_or_several(labels), first(plain(decoded)), first(activation(self.loss_func, raw))

    def show_results(
        self,
        max_n: int = 9,
        *,
        dl: AnyLoader | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Returns a figure of validation samples from all over the data, each with its target and its prediction.

        What is right stands in green, what is wrong in red with what it should be; see `DataLoaders.show_batch` for how a
        script or TensorBoard takes the figure.

        Args:
            max_n: how many samples, at most.
            dl: another loader, with targets; by default that of validation.
            figsize: (width, height) in inches; by default what the pictures need.

        Raises:
            ConfigError: `max_n` is below 1.
            DataError: the loader has no targets.
        """
        if max_n < 1:
            raise ConfigError(f"show_results(max_n={max_n}): expected at least 1 sample to show")
        batch = parts(spread_samples(self.validation_loader(dl), max_n))
        inputs, targets = batch[: self.dls.n_inp], batch[self.dls.n_inp :]
        if not targets:
            raise DataError(
                "show_results compares predictions with targets, and this loader has none; learn.predict does"
            )
        with self._set_aside(), torch.inference_mode():
            self.model.eval()
            decoded = decodes(self.loss_func, self.precision.forward(self.model, plain(inputs)))
        recipe = self.dls.recipe if self.dls.has_recipe else None
        samples = decoded_samples(batch, recipe)
        predicted = decoded if isinstance(decoded, tuple) and len(decoded) == len(targets) else (decoded,)
        typed = [as_target(each, target) for each, target in zip(predicted, targets, strict=False)]
        guesses = decoded_samples((*inputs, *typed), recipe)
        shown = [one_or_several(guess[self.dls.n_inp :]) for guess in guesses]
        return sized(show_results(one_or_several(inputs), one_or_several(targets), samples, shown), figsize)

    def summary(self) -> ModelSummary:
        """Returns the model's layers, shapes, parameters, FLOPs and memory, which is frozen, and what trains it.

        Measured on this rank's share of the first training batch; print it, or look at its attributes.
        """
        inputs = plain(self.dls.one_batch()[: self.dls.n_inp])
        tensors = self._opt.state()[0].values() if self._opt is not None else ()
        notes = {
            "loss": getattr(self.loss_func, "__name__", type(self.loss_func).__name__),
            "optimizer": self._opt.kind if self._opt is not None else "none yet",
            "precision": self.precision.name,
            "callbacks": ", ".join(type(each).__name__ for each in self.callbacks),
        }
        with self._set_aside():
            modes = [(module, module.training) for module in self.model.modules()]
            self.model.eval()
            try:
                size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
                return summarize(self.model, inputs, self.precision, state_bytes=size, notes=notes)
            finally:
                for module, training in modes:
                    module.training = training

    def show_training_loop(self) -> None:
        """Prints the training loop with the callbacks that run at each event."""
        print(training_loop(self.callbacks))

    # ------------------------------------------------------------------------------------------------ saving

    def save(self, name: str | Path, *, with_opt: bool = True) -> Path:
        """Writes the weights, and the optimizer's state, to a directory; returns it. Collective.

        Args:
            name: a path, or a bare name for one in ``models`` in the run directory (or here, without a run directory).
            with_opt: whether to write the optimizer's state.

        Names and shapes are the same on any number of processes. Nothing in it is pickled.
        """
        directory = self._saved(name)
        self.strategy.sync_buffers(self.model)
        groups, state = {"model": self.model.state_dict()}, {}
        if with_opt:
            groups["optimizer"], state["optimizer"] = self.opt.state()
        write_checkpoint(directory, groups, state, self.collectives)
        return directory

    def load(self, name: str | Path, *, with_opt: bool = True) -> Learner:
        """Reads the weights, and the optimizer's state if it was saved, from what `save` wrote; returns the Learner.

        Raises:
            ArtifactError: it is not there, damaged, or of another model or optimizer.
        """
        directory = self._saved(name)
        saved = Checkpoint.open(directory)
        weights = saved.read("model", {name: t for name, t in self.model.state_dict().items() if is_sharded(t)})
        load_tensors(self.model, weights, str(directory), "Load it into the model that it was saved of")
        if with_opt and "optimizer" in saved.state:
            self._drop_opt()  # a fresh one has no state beside what is loaded
            self.opt.load_state(saved.read("optimizer", layout_of_state(saved, self.opt)), saved.state["optimizer"])
        return self

    def _saved(self, name: str | Path) -> Path:
        path = Path(name)
        return path if path.parent != Path() else (self.run_dir or Path()) / "models" / path

    def export(self, directory: str | Path = "export") -> Path:
        """Writes the model and all that is needed to predict with it to one directory; returns it.

        The same names, shapes and dtypes whatever number of processes trained it; `load_learner` and
        `dist_ai.export.Predictor` read it. Rank 0 writes; all wait, and fail if it fails. Collective.
        """
        self.strategy.sync_buffers(self.model)
        state = gather(self.model.state_dict(), keep=self.collectives.world.is_main)

        def write() -> None:
            save_export(
                directory,
                model=self.model,
                state=state,
                spec=self.spec,
                recipe=self.dls.recipe,
                loss_func=self.loss_func,
            )

        with self._set_aside():  # in a fit too, with the weights to evaluate with
            on_main(self.collectives, write, what=f"the export to {directory}")
        return Path(directory)

    def save_checkpoint(self, *, epoch_ended: bool = False) -> None:
        """Begins to write a checkpoint to the run directory, in the background; for callbacks. Collective.

        The training waits for a copy to host memory, and for the checkpoint before it if that is still being written.

        Args:
            epoch_ended: called in `after_epoch`; otherwise in `after_batch` of a training batch.

        Raises:
            ConfigError: there is no run directory, or no training batch has just ended.
        """
        if self._keeper is None:
            raise ConfigError("there is no run directory to write a checkpoint to; give Learner(run_dir=...)")
        state = self.state
        if epoch_ended:
            self._keeper.save(Cursor(state.epoch + 1, 0, state.progress))
            return
        if not self._fitting or state.share is None or not state.last_microbatch:
            raise ConfigError(
                "a checkpoint stands between two training steps; write it in after_batch, when state.training and "
                "state.last_microbatch"
            )
        cancel = self._cancelled_now() if state.training else Decision.NOTHING
        self._keeper.save(Cursor(state.epoch, state.next_step, state.progress, cancel))

    def _cancelled_now(self) -> Decision:
        """Returns what callbacks have cancelled in this very event, on any rank, beyond the batch itself. Collective."""
        voted = torch.tensor([int(self.decisions.voted)])
        decision = Decision(int(self.collectives.all_reduce(voted, "max", what="cancels")))
        return decision if decision > Decision.CANCEL_BATCH else Decision.NOTHING

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._keeper is not None and self._keeper.saving

    def wait_for_checkpoint(self) -> None:
        """Waits until the checkpoint that is being written, if one is, is complete on all ranks, or given up."""
        if self._keeper is not None:
            self._keeper.wait()

    # ------------------------------------------------------------------------------------------------ inside

    def _fit(
        self,
        method: str,
        length: Length,
        lr: LearningRate | None,
        wd: float | None,
        cbs: list[Callback],
        reset_opt: bool,
        valid_every: int | None,
        **facts: Any,
    ) -> None:
        if valid_every is not None and (valid_every < 1 or self.dls.valid is None):
            raise ConfigError(
                f"valid_every={valid_every}: expected 1 step or more"
                if valid_every < 1
                else f"valid_every={valid_every}, and there is no validation data; give DataLoaders(train, valid)"
            )
        if not any(p.requires_grad for p in self.model.parameters()):
            raise ConfigError(f"{method}: all parameters of the model are frozen; learn.unfreeze() lets them learn")
        self._prepare_opt(reset_opt)
        rates = learning_rates(self.lr if lr is None else lr, len(self.opt.groups))
        self.opt.set_hyper("lr", rates)
        if (decay := self.wd if wd is None else wd) is not None:
            self.opt.set_hyper("wd", decay)
        self._require_same(fit=method, **length.plain(), **{"learning rates": rates})
        self._num_fits += 1
        self.recorder.fit = self._num_fits
        begin = Beginning(Cursor())
        with self.added_cbs(cbs):
            steps = self._steps()
            if self._keeper is not None:
                facts = {"method": method, **length.plain(), "lr": rates, **facts, **self._facts(steps)}
                begin = self._keeper.begin({**facts, **({"valid_every": valid_every} if valid_every else {})})
            n_epoch = length.in_epochs(steps)[0]
            if begin.done:
                self._num_epochs += begin.cursor.epoch if n_epoch is None else n_epoch
                return
            loop = self._loop(steps, valid_every)
            self._fitting = True
            try:
                loop.fit(length, begin.cursor)
            except KeyboardInterrupt as interrupt:
                if not self.state.leave:
                    raise
                # The ranks left together, with a checkpoint: where in the loop that was is of no interest to anybody.
                raise interrupt.with_traceback(None) from None
            finally:
                self._fitting = False
                # Where the clock decides, every epoch that was begun counts.
                self._num_epochs += (n_epoch := self.state.epoch + 1 if n_epoch is None else n_epoch)
            if self._keeper is not None:
                self._keeper.save(Cursor(n_epoch), finished=True)

    def _require_same(self, **fit: Any) -> None:
        """Checks that all ranks have the same data and do the same: else they would wait for each other. Collective."""
        require_same(
            self.collectives,
            {**self.dls.facts(), **fit},
            what="the fit" if fit else "the data",
            remedy="every rank runs the same program on the same files, and it is the loaders that give each its share",
        )

    def _steps(self) -> Steps:
        """Returns how the training batches make up steps."""
        accumulation: GradientAccumulation | None = self.callbacks.find(GradientAccumulation)
        train = self.dls.train
        batches = accumulation.batches_of(train.bs) if accumulation else 1
        return Steps(known_length(train), train.num_samples, train.bs, batches)

    def _facts(self, steps: Steps) -> dict[str, Any]:
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
            "precision": self.precision.name,
            "batches a step": steps.batches,
            "frozen parameters": sum(not p.requires_grad for p in self.model.parameters()),
        }

    def _loop(
        self, steps: Steps | None = None, valid_every: int | None = None, events: Callbacks | None = None
    ) -> Loop:
        given = Collaborators(
            model=self.model,
            dls=self.dls,
            loss_func=self.loss_func,
            opt=self._opt,  # type: ignore[arg-type]  # validation needs none
            strategy=self.strategy,
            precision=self.precision,
            state=self.state,
            events=self.callbacks if events is None else events,
            decisions=self.decisions,
            seed=self.dls.seed if self.dls.has_data else 0,  # without data nothing is drawn
            auto_microbatch=self.callbacks.find(AutoMicrobatch),
        )
        return Loop(given, epochs_before=self._num_epochs, steps=steps, valid_every=valid_every)

    def _prepare_opt(self, reset: bool) -> None:
        if reset:
            if self._opt_is_given:
                raise ConfigError("reset_opt=True: the optimizer was assigned to learn.opt; assign a fresh one instead")
            self._opt = None

    def _drop_opt(self) -> None:
        if not self._opt_is_given:  # what was assigned stays; it leaves alone what has no gradient
            self._opt = None

    def _predictions(self, loader: AnyLoader, *, with_loss: bool = False, epoch: int = 0) -> tuple[Any, Any, Any]:
        """Returns raw predictions, targets and losses for the samples of `loader`, in order."""
        if loader.shuffle:
            raise ConfigError(
                "get_preds keeps the order of the data, and this loader shuffles it; give one with shuffle=False"
            )
        gather = GatherPreds(self.loss_func, with_loss=with_loss)
        with self._set_aside(), self.added_cbs(gather):
            self._loop().validate(loader, epoch)
        return gather.result()

    def _default_loss(self) -> Any:
        if not self.dls.has_data:
            raise ConfigError("no loss_func was given and there is no data to infer it from")
        target = parts(self.dls.one_batch())[self.dls.n_inp]
        if default_loss.find(type(target)) is None:
            raise ConfigError(
                f"no loss_func was given, and targets of type {type(target).__name__} have no default one; "
                "give Learner(..., loss_func=...)"
            )
        return default_loss(target)

    def _device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @contextlib.contextmanager
    def _nothing_happened(self) -> Iterator[None]:
        """Undoes what training in the block changes: weights, optimizer, precision, callbacks, state and randomness."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        modes = [(module, module.training) for module in self.model.modules()]
        kept_cbs = [(each, copy.deepcopy(each.state_dict())) for each in self.callbacks if each.phase < Phase.RECORD]
        state, random = self.state.copy(), random_states()
        opt, precision = self._opt, self.precision
        # The optimizer itself steps aside, and a copy of it trains the same parameters.
        self._opt = copy.deepcopy(self.opt, {id(p): p for p in self.model.parameters()})
        self.precision = precision_of(precision.name, self.device, self.data_collectives.world.world_size)
        self.precision.load_state(precision.state())
        try:
            yield
        finally:
            self._opt, self.precision = opt, precision
            with torch.no_grad():
                for tensor, was in zip(tensors, before, strict=True):
                    tensor.copy_(was)
            for module, training in modes:
                module.training = training
            for each, was_cb in kept_cbs:
                if was_cb:
                    each.load_state_dict(was_cb)
            self.state.become(state)
            set_random_states(random)

    @contextlib.contextmanager
    def _set_aside(self) -> Iterator[None]:
        """Lends the model, with the weights to evaluate with, and in the middle of a fit puts it and the state back."""
        opt_trains = self._opt is not None and self._opt.training
        if self._opt is not None:
            self._opt.eval()
        if not self._fitting:
            yield
            return
        state = self.state.copy()
        modes = [(module, module.training) for module in self.model.modules()]
        try:
            with self.decisions.set_aside():
                yield
        finally:
            if opt_trains:
                self.opt.train()
            self.state.become(state)
            for module, training in modes:
                module.training = training


def _without_address(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _listed(cbs: Callback | Iterable[Callback]) -> list[Callback]:
    return [cbs] if isinstance(cbs, (Callback, type)) else list(cbs)
