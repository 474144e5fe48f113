"""The Learner: data, a model, a loss and an optimizer, trained together on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.callbacks import (
    Callback,
    Checkpointer,
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
from dist_ai.checkpoint import KeepBest, Run
from dist_ai.core.names import known_arguments, missing_attribute
from dist_ai.core.transform import Transform
from dist_ai.core.types import plain
from dist_ai.data.loaders import AnyLoader, DataLoaders
from dist_ai.distributed.collectives import join
from dist_ai.distributed.coordination import Decisions
from dist_ai.distributed.strategies import AnyConfig, PrecisionName, choose, for_world, precision_of
from dist_ai.errors import ConfigError
from dist_ai.export import ModelSpec
from dist_ai.learner import saving
from dist_ai.learner.application import LearnerOptions
from dist_ai.learner.arguments import (
    Cbs,
    as_dataloaders,
    check_loss,
    check_model,
    check_opt,
    check_opt_func,
    listed,
    loss_of,
)
from dist_ai.learner.batch import back_propagate
from dist_ai.learner.dealing import deal_out
from dist_ai.learner.evaluation import Evaluation, device_of, loader_of
from dist_ai.learner.fits import Fit, Fits
from dist_ai.learner.groups import (
    LearningRate,
    Splitter,
    as_optimizer,
    freeze_to,
    learning_rates,
    one_group,
    param_groups,
)
from dist_ai.learner.keeper import Keeper
from dist_ai.learner.length import Length
from dist_ai.learner.lr_finder import LRFinding, find_lr
from dist_ai.learner.overview import overview
from dist_ai.learner.own_optimizer import OwnOptimizer
from dist_ai.learner.policies import Policy, flat_cos_policy, one_cycle_policy, sgdr_policy
from dist_ai.learner.run_places import RunDir, claimed
from dist_ai.learner.summary import ModelSummary, summary_of
from dist_ai.losses import activation, decodes, loss_metrics
from dist_ai.losses.composite import PartOfLoss
from dist_ai.metrics import GatheredMetric, Metric, as_metrics
from dist_ai.optimizer import Adam
from dist_ai.optimizer.optimizer import AnyOptimizer
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
        metrics: functions of (prediction, target), or `Metric`s, computed in validation; or a dict of them by the names of
            their columns. The parts of a `CompositeLoss` come after them.
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
            written. With a URI such as ``s3://bucket/cats`` checkpoints go there, and the rest to ``runs/cats``. A program's
            second Learner on the same one has ``learner-2`` in it, and so on; one made after an interrupt goes on there.
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
        callbacks: those attached, in their order.

    ```python
    learn = Learner(dls, model, metrics=accuracy)
    learn.fit_one_cycle(3, 1e-2)
    ```
    """

    @known_arguments(LearnerOptions)
    def __init__(
        self,
        dls: DataLoaders | Sequence[Any] | AnyLoader | TorchDataLoader[Any],
        model: nn.Module,
        loss_func: Callable[..., torch.Tensor] | None = None,
        *,
        opt_func: Callable[..., Any] = Adam,
        lr: float = 1e-3,
        splitter: Splitter = one_group,
        cbs: Cbs = (),
        metrics: Any = None,
        wd: float | None = None,
        moms: tuple[float, float, float] = (0.95, 0.85, 0.95),
        wd_bn_bias: bool = False,
        train_bn: bool = True,
        sync_bn: bool = True,
        strategy: AnyConfig = "auto",
        run_dir: RunDir = "auto",
        checkpoint_every_s: float | None = 30.0,
        checkpoint_every_steps: int | None = None,
        keep_last: int = 2,
        keep_best: KeepBest | None = None,
        fresh: bool = False,
        precision: PrecisionName = "fp32",
        spec: ModelSpec | None = None,
        progress: bool = True,
    ) -> None:
        self.dls = as_dataloaders(dls)
        check_model(model)
        check_opt_func(opt_func)
        self.model, self.opt_func, self.spec = model, as_opt_func(opt_func), spec
        self.loss_func = loss_of(self.dls) if loss_func is None else loss_func
        check_loss(self.loss_func)
        self.lr: LearningRate = lr
        self.wd, self.moms = wd, moms
        self.splitter, self.wd_bn_bias, self.train_bn = splitter, wd_bn_bias, train_bn
        self.own_optimizer = OwnOptimizer(self._make_opt)

        self.collectives = join()
        self.decisions = Decisions(self.collectives)
        self.device = self.dls.device if self.dls.has_data else self.collectives.world.device
        choice = choose(strategy, model, self.collectives)
        self.strategy = for_world(self.collectives, choice.config, sync_bn=sync_bn, why=choice.why)
        self.data_collectives = self.strategy.data_collectives
        for loader in self.dls if self.dls.has_data else ():
            deal_out(loader, self.strategy)
        self.precision = precision_of(precision, self.device, self.data_collectives.world.world_size)

        self.state = TrainState()
        self.recorder = Recorder(self._measured(metrics))
        self.callbacks = Callbacks([self.recorder, SkippedSamples(), *([ProgressBar()] if progress else [])], self)
        with claimed(run_dir) as place:
            keeper = None
            self.run_dir = None if place is None else place.directory
            if place is not None:
                saves = Checkpointer(
                    every_s=checkpoint_every_s, every_steps=checkpoint_every_steps, every_epoch=keep_best is not None
                )
                self.callbacks.add([RunLog(), TensorBoard(), RemoteControl(), saves])
                keeper = Keeper(self, Run(*place, keep=keep_last, keep_best=keep_best), fresh=fresh)
            self.callbacks.add(listed(cbs))
            self._fits = Fits(self, keeper)
            self._evaluation = Evaluation(self, self._fits)

            self._fits.require_same_data()
            if isinstance(self.loss_func, nn.Module):
                self.loss_func.to(self.device)  # its class weights
            self.strategy.prepare(model, self.device)

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def __repr__(self) -> str:
        return overview(
            self.model,
            self.dls,
            self.callbacks,
            loss=self.loss_func,
            optimizer=self.own_optimizer.given or self.opt_func,
            metrics=[metric.name for metric in self.recorder.metrics],
            precision=self.precision.name,
            device=device_of(self.model),
            run_dir=self.run_dir,
        )

    # ------------------------------------------------------------------------------------------------ training

    @known_arguments()
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
        cbs: Cbs = (),
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
        rates = self._rates(lr, reset_opt)
        self._fits.run(Fit("fit", length, rates, Policy(), wd, listed(cbs), valid_every))

    @known_arguments()
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
        cbs: Cbs = (),
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
        peaks = self._rates(lr_max, reset_opt)
        policy = one_cycle_policy(
            self.opt, peaks, div=div, div_final=div_final, pct_start=pct_start, moms=moms, usual_moms=self.moms
        )
        self._fits.run(Fit("fit_one_cycle", length, peaks, policy, wd, listed(cbs), valid_every))

    @known_arguments()
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
        cbs: Cbs = (),
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
        rates = self._rates(lr, reset_opt)
        policy = flat_cos_policy(rates, div_final=div_final, pct_start=pct_start)
        self._fits.run(Fit("fit_flat_cos", length, rates, policy, wd, listed(cbs), valid_every))

    @known_arguments()
    def fit_sgdr(
        self,
        n_cycles: int,
        cycle_len: int,
        lr_max: LearningRate | None = None,
        *,
        cycle_mult: int = 2,
        wd: float | None = None,
        valid_every: int | None = None,
        cbs: Cbs = (),
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
        length = Length(n_epoch=sum(cycle_len * cycle_mult**cycle for cycle in range(n_cycles)))
        peaks = self._rates(lr_max, reset_opt)
        policy = sgdr_policy(peaks, n_cycles, cycle_len, cycle_mult)
        self._fits.run(Fit("fit_sgdr", length, peaks, policy, wd, listed(cbs), valid_every))

    @known_arguments()
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
        cbs: Cbs = (),
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

    @known_arguments()
    def lr_find(
        self,
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        *,
        stop_div: bool = True,
        cbs: Cbs = (),
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
        return find_lr(self, self._fits, start_lr, end_lr, num_it, stop_div=stop_div, cbs=listed(cbs))

    def freeze_to(self, n: int) -> None:
        """Freezes the first `n` parameter groups and unfreezes the others; the optimizer starts afresh."""
        freeze_to(self.model, self.splitter, n, train_bn=self.train_bn)
        self.own_optimizer.drop()

    def freeze(self) -> None:
        """Freezes all parameter groups but the last; with a single group, nothing."""
        self.freeze_to(-1 if len(self.splitter(self.model)) > 1 else 0)

    def unfreeze(self) -> None:
        """Unfreezes all parameter groups; the optimizer starts afresh."""
        self.freeze_to(0)

    @property
    def opt(self) -> AnyOptimizer:
        """The optimizer, made by `opt_func` when it is first needed."""
        return self.own_optimizer.get()

    @opt.setter
    def opt(self, given: AnyOptimizer | torch.optim.Optimizer) -> None:
        self.own_optimizer.give(as_optimizer(self.model, given))
        rates = self.opt.get_hyper("lr")  # those it was made with, unless a fit is given others
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

    def add_cbs(self, cbs: Cbs) -> Learner:
        """Attaches callbacks to all fits from now on; returns the Learner."""
        self.callbacks.add(listed(cbs))
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

    @property
    def metrics(self) -> Sequence[Metric | GatheredMetric]:
        """What validation computes beside the loss; assign others, as they are given to a Learner."""
        return self.recorder.metrics

    @metrics.setter
    def metrics(self, given: Any) -> None:
        self.recorder.measure(self._measured(given))

    def _measured(self, given: Any) -> list[Metric | GatheredMetric]:
        """Returns all that validation computes beside the loss: what was given, and the parts of the loss."""
        of_loss = loss_metrics(self.loss_func)
        names = {part.name for part in of_loss}
        others = [each for each in as_metrics(given) if not (isinstance(each, PartOfLoss) and each.name in names)]
        return [*others, *of_loss]  # what `metrics` returned may be given again, and has the parts

    @contextlib.contextmanager
    def added_cbs(self, cbs: Cbs) -> Iterator[Learner]:
        """Attaches callbacks for the block, and detaches them on every way out of it."""
        added = listed(cbs)
        self.callbacks.add(added)
        try:
            yield self
        finally:
            self.callbacks.remove(added)

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

    def evaluation_loader(self, dl: AnyLoader | TorchDataLoader[Any] | None = None, ds_idx: int = 1) -> AnyLoader:
        """Returns the loader that a method was given, or else that of one part of the data.

        Args:
            dl: the loader.
            ds_idx: otherwise, 1 for the validation data, 0 for the training data as validation would see it: in order, all
                of it and not augmented.

        Raises:
            ConfigError: it is no loader, there is no such part, or it cannot be dealt out to groups of ranks.
        """
        loader = loader_of(self.dls, dl, ds_idx)
        deal_out(loader, self.strategy)
        return loader

    @known_arguments()
    def validate(
        self,
        dl: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        ds_idx: int = 1,
        cbs: Cbs = (),
    ) -> list[float]:
        """Returns [loss, *metrics] over the validation data, or over `dl`; the same on every rank.

        Args:
            dl, ds_idx: what to validate on; see `evaluation_loader`.
            cbs: callbacks for this only.

        Raises:
            DataError: there are no targets to measure with.
        """
        with self.added_cbs(cbs):
            return self._evaluation.validate(self.evaluation_loader(dl, ds_idx))

    @known_arguments()
    def get_preds(
        self,
        dl: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        ds_idx: int = 1,
        with_input: bool = False,
        with_decoded: bool = False,
        with_loss: bool = False,
        act: Callable[[Any], Any] | None = None,
        cbs: Cbs = (),
    ) -> tuple[Any, ...]:
        """Returns (predictions, targets) for the validation data or `dl`, in the order of the data, all on every rank.

        Args:
            dl, ds_idx: what to predict; see `evaluation_loader`. A loader must not be shuffled.
            with_input: also return, before all else, what the model was given.
            with_decoded: also return the decoded predictions (class indices), after the targets.
            with_loss: also return the loss of each sample, last.
            act: makes of the model's raw output what is returned; by default the loss's activation (probabilities).
            cbs: callbacks for this only.

        Targets are None where there are none. All are on the CPU, one row a sample. Several inputs, outputs, or targets, come
        as the data, or the model, has them: a tuple, a list or a dict of tensors.

        ```python
        logits, targets = learn.get_preds(ds_idx=0, act=lambda raw: raw)  # of the training data
        ```
        """
        with self.added_cbs(cbs):
            loader = self.evaluation_loader(dl, ds_idx)
            found = self._evaluation.predictions(loader, with_loss=with_loss, with_input=with_input)
        preds = activation(self.loss_func, found.raw) if act is None else act(found.raw)
        result: list[Any] = [found.inputs] if with_input else []
        result += [preds, found.targets]
        result += [plain(decodes(self.loss_func, found.raw))] if with_decoded else []
        return (*result, found.losses) if with_loss else tuple(result)

    @known_arguments()
    def tta(
        self,
        dl: AnyLoader | TorchDataLoader[Any] | None = None,
        *,
        ds_idx: int = 1,
        n: int = 4,
        beta: float = 0.25,
        use_max: bool = False,
        views: Iterable[Transform] | None = None,
    ) -> tuple[torch.Tensor, Any]:
        """Returns (predictions, targets), averaged over augmented versions of each sample (test-time augmentation).

        Args:
            dl, ds_idx: what to predict; see `evaluation_loader`. A loader must not be shuffled.
            n: augmented versions, made by the transforms of training.
            beta: how much the prediction for the sample itself counts beside their mean.
            use_max: take the largest of the two instead.
            views: batch transforms each of which makes one version, instead of the `n` that training's draw: nothing is random
                then. `dist_ai.vision.flip_views()` and `dihedral_views()` are such.

        Predictions have gone through the loss's activation. The same on any number of ranks.
        """
        loader = self.evaluation_loader(dl, ds_idx)
        return self._evaluation.averaged(loader, n=n, beta=beta, use_max=use_max, views=views)

    @known_arguments()
    def predict(self, item: Any) -> tuple[Any, Any, Any]:
        """Returns (label, decoded output, output after activation) for one item, such as an image's path.

        Where a model predicts several targets, such as boxes and their labels, each of the three has a part for each.
        """
        return self._evaluation.of_item(item)

    @known_arguments()
    def show_results(
        self,
        max_n: int = 9,
        *,
        dl: AnyLoader | None = None,
        ds_idx: int = 1,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Returns a figure of validation samples from all over the data, each with its target and its prediction.

        What is right stands in green, what is wrong in red with what it should be; see `DataLoaders.show_batch` for how a
        script or TensorBoard takes the figure.

        Args:
            max_n: how many samples, at most.
            dl, ds_idx: another loader, with targets, or another part of the data; see `evaluation_loader`.
            figsize: (width, height) in inches; by default what the pictures need.

        Raises:
            ConfigError: `max_n` is below 1.
            DataError: the loader has no targets.
        """
        return self._evaluation.picture(self.evaluation_loader(dl, ds_idx), max_n, figsize)

    def evaluating(self) -> AbstractContextManager[None]:
        """Lends the model in evaluation mode and without gradients, for what runs it by itself.

        With the weights to evaluate with; in the middle of a fit everything is put back afterwards. Inputs that are typed or
        on another device go through ``learn.dls.test_dl(items)``, and the model by ``learn.precision.forward``.

        ```python
        with learn.evaluating():
            features = learn.model[0](images)
        ```
        """
        return self._evaluation.mode()

    def summary(self) -> ModelSummary:
        """Returns the model's layers, shapes, parameters, FLOPs and memory, which is frozen, and what trains it.

        Measured on this rank's share of the first training batch; print it, or look at its attributes.
        """
        return summary_of(self, self._fits)

    def show_training_loop(self) -> None:
        """Prints the training loop with the callbacks that run at each event."""
        print(training_loop(self.callbacks))

    # ------------------------------------------------------------------------------------------------ saving

    @known_arguments()
    def save(self, name: str | Path, *, with_opt: bool = True) -> Path:
        """Writes the weights, and the optimizer's state, to a directory; returns it. Collective.

        Args:
            name: a path, or a bare name for one in ``models`` in the run directory (or here, without a run directory).
            with_opt: whether to write the optimizer's state.

        Names and shapes are the same on any number of processes. Nothing in it is pickled.
        """
        directory = saving.place_of(name, self.run_dir)
        saving.save(self, directory, with_opt=with_opt)
        return directory

    @known_arguments()
    def load(self, name: str | Path, *, with_opt: bool = True) -> Learner:
        """Reads the weights, and the optimizer's state if it was saved, from what `save` wrote; returns the Learner.

        Raises:
            ArtifactError: it is not there, damaged, or of another model or optimizer.
        """
        saving.load(self, saving.place_of(name, self.run_dir), with_opt=with_opt)
        return self

    @known_arguments()
    def export(self, directory: str | Path = "export") -> Path:
        """Writes the model and all that is needed to predict with it to one directory; returns it.

        The same names, shapes and dtypes whatever number of processes trained it; `load_learner` and
        `dist_ai.export.Predictor` read it. Rank 0 writes; all wait, and fail if it fails. Collective.
        """
        saving.export(self, self._fits, Path(directory))
        return Path(directory)

    def save_checkpoint(self, *, epoch_ended: bool = False) -> None:
        """Begins to write a checkpoint to the run directory, in the background; for callbacks. Collective.

        The training waits for a copy to host memory, and for the checkpoint before it if that is still being written.

        Args:
            epoch_ended: called in `after_epoch`; otherwise in `after_batch` of a training batch.

        Raises:
            ConfigError: there is no run directory, or no training batch has just ended.
        """
        self._fits.save_checkpoint(epoch_ended=epoch_ended)

    @property
    def saving(self) -> bool:
        """Whether a checkpoint is being written in the background."""
        return self._fits.keeper is not None and self._fits.keeper.saving

    def wait_for_checkpoint(self) -> None:
        """Waits until the checkpoint that is being written, if one is, is complete on all ranks, or given up."""
        if self._fits.keeper is not None:
            self._fits.keeper.wait()

    def close(self) -> None:
        """Gives the run directory free: another process, or another Learner of this one, may go on there with the fits.

        A program that ends does it by itself. This Learner trains no more; it still predicts, saves and exports.
        """
        if self._fits.keeper is not None:
            self._fits.keeper.close()

    # ------------------------------------------------------------------------------------------------ inside

    def _make_opt(self) -> AnyOptimizer:
        groups = param_groups(self.model, self.splitter, wd_bn_bias=self.wd_bn_bias)
        rates = learning_rates(self.lr, len(groups))
        opt = self.opt_func(groups, lr=rates[-1])
        check_opt(opt)
        opt.set_hyper("lr", rates)
        return opt

    def _rates(self, lr: LearningRate | None, reset_opt: bool) -> list[float]:
        """Returns the learning rate of each group of the optimizer, a fresh one if that is wanted."""
        if reset_opt:
            self.own_optimizer.reset()
        return learning_rates(self.lr if lr is None else lr, len(self.opt.groups))
