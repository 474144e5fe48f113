"""Names that are asked for and are not there: the error says what it is called here.

A slip of the pen is answered with the nearest name (`did_you_mean`). The word of another library, which fastai, PyTorch or
Lightning have for it, is no slip, and often near to nothing: `OTHER_WORDS` has what to write instead. All that is asked
for by name comes by here: arguments and options (`known_arguments`, `refuse_unknown`), attributes (`missing_attribute`),
what is imported from a room (`missing_name`), and what a class defines (`other_words`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never, ParamSpec, TypeVar

from dist_ai.errors import did_you_mean

__all__ = [
    "OTHER_WORDS",
    "known_arguments",
    "missing_attribute",
    "missing_name",
    "other_words",
    "refuse_unknown",
]

P = ParamSpec("P")
R = TypeVar("R")


def refuse_unknown(subject: str, given: Iterable[str], known: Iterable[str], *places: str) -> None:
    """Refuses names that there are not, with what is meant.

    Args:
        subject: begins the message, such as ``"loaders have no option"``.
        given: the names.
        known: those that there are.
        places: in `OTHER_WORDS`, the nearest first.

    Raises:
        TypeError: as Python does for an argument that a function does not have.

    >>> refuse_unknown("loaders have no option", {"sede": 4}, ["bs", "seed"])
    Traceback (most recent call last):
    TypeError: loaders have no option 'sede'; did you mean 'seed'? There are bs, seed
    """
    there = list(known)
    for name in given:
        if name not in there:
            hint = next((f"; {words[name]}. " for words in map(other_words, places) if name in words), "")
            hint = hint or (f"{nearest} " if (nearest := did_you_mean(name, there)) else ". ")
            raise TypeError(f"{subject} {name!r}{hint}There are {', '.join(there)}")


def known_arguments(options: type | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function so that an argument which it does not have is an error that says what is meant.

    Args:
        options: the `TypedDict` of what it takes as ``**options`` and hands on: a name in neither is refused here, before
            the function does anything.

    >>> @known_arguments()
    ... def train(n_epoch, rate=0.1): ...
    >>> train(1, rtae=0.2)
    Traceback (most recent call last):
    TypeError: train has no argument 'rtae'; did you mean 'rate'? There are n_epoch, rate
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.items()
        names = [name for name, each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        names += [name for name in getattr(options, "__annotations__", ()) if name not in names]
        known, shown = frozenset(names), [name for name in names if name not in ("self", "cls")]
        called = function.__qualname__.removesuffix(".__init__")
        places = (function.__qualname__, *([options.__name__] if options is not None else []))

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            if not known.issuperset(kwargs):
                refuse_unknown(f"{called} has no argument", kwargs, shown, *places)
            return function(*args, **kwargs)

        return checked

    return decorate


def missing_attribute(self: Any, name: str) -> Any:
    """As the `__getattr__` of a class: says what an attribute that it does not have is called here.

    It finds nothing: what is not there stays an `AttributeError`. Asking whether something is there costs a look into a
    dict.
    """
    kind = type(self)
    if hasattr(kind, name):  # a property, whose own AttributeError led here: let it say itself what is wrong
        return object.__getattribute__(self, name)
    for base in kind.__mro__:
        if name in (words := other_words(base.__name__)):
            article = "an" if kind.__name__[0] in "AEIOU" else "a"
            raise AttributeError(f"{article} {kind.__name__} has no attribute {name!r}; {words[name]}")
    # With these two Python adds the nearest name, where it shows the error.
    raise AttributeError(f"{kind.__name__!r} object has no attribute {name!r}", name=name, obj=self)


def missing_name(module: str) -> Callable[[str], Never]:
    """Returns the `__getattr__` of a module, which says what another library's name is called here.

    Raises:
        ImportError: a name in `OTHER_WORDS`. ``from module import name`` would replace the text of an `AttributeError`.
        AttributeError: any other, as Python does.
    """

    def missing(name: str) -> Never:
        if name in (words := other_words(module)):
            raise ImportError(f"{module} has no {name}; {words[name]}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return missing


def other_words(place: str) -> Mapping[str, str]:
    """Returns what others call something that is asked for in a place, and what to write instead."""
    return OTHER_WORDS.get(place, {})


# ------------------------------------------------------------------------------------------------ what others call it

_BY_ITSELF = "a run directory does that: a program that is run again goes on where it was"
_LAUNCHED = "start the program with `dist-ai launch --workers N` or torchrun; nothing in it changes"
_IN_ORDER = "predictions always come in the order of the data"
_ACCUMULATE = "cbs=GradientAccumulation(batches=...) makes one step of several batches"
_WHERE = "the device is that of the world: a GPU for each worker where there is one, else the CPU"
_OPT_FUNC = "here it is opt_func, which makes one; one that is made already is assigned: learn.opt = optimizer"


def _lies_in(room: str, names: str) -> dict[str, str]:
    """What is asked of a room and is in another."""
    return dict.fromkeys(names.split(), f"it is in {room}")


_OF_ANY_LEARNER = "ClassificationInterpretation Interpretation Learner load_learner"
_OF_ANY_METRIC = "accuracy error_rate mae mse rmse F1Score RocAuc RocAucBinary"
_OF_ANY_DATA = (
    "CategoryBlock ColReader ColSplitter DataBlock DataLoaders IndexSplitter MultiCategoryBlock RandomSplitter RegressionBlock "
    "untar_data"
)

_IN_OTHER_ROOMS = (
    _lies_in("dist_ai.data", _OF_ANY_DATA)
    | _lies_in("dist_ai.learner", _OF_ANY_LEARNER)
    | _lies_in("dist_ai.metrics", _OF_ANY_METRIC)
    | {"URLs": "untar_data of dist_ai.data takes an address; its sample_data is there without one"}
)

_FILE_OF_SAMPLE = (
    "interp.top_losses(k) has the numbers of the worst samples, and dls.valid_ds.items their files, to move or delete"
)
_BY_NAME = 'here it is its name, as in vision_learner(dls, "{0}")'
_ALL_SUGGESTIONS = "learn.lr_find() returns all suggestions: valley, slide, minimum, steep"
_OF_TORCH = "here it is torch's, nn.{0}"
_OPTION_OF_METRIC = "give it with functools.partial(function, ...)"

_OF_A_FIT = {
    "base_lr": "here it is lr, or lr_max; base_lr is fine_tune's",
    "callbacks": "here it is cbs",
    "cb": "here it is cbs, one or several",
    "epochs": "here it is n_epoch",
    "learning_rate": "here it is lr",
    "max_epochs": "here it is n_epoch",
    "max_lr": "here it is lr_max",
    "max_steps": "here it is steps",
    "n_epochs": "here it is n_epoch",
    "num_epochs": "here it is n_epoch",
    "start_epoch": _BY_ITSELF,
    "start_lr": "it follows from div: the rate begins at lr_max / div",
    "weight_decay": "here it is wd",
}

_OF_A_GRID = {"nrows": "give k, and figsize", "ncols": "give k, and figsize", "title": "figure.suptitle(...) sets it"}

_OF_A_MONITOR = {
    "at_end": "the best weights are kept in memory and put in the model at the end",
    "comp": "here it is lower: True if less is better",
    "every_epoch": "give Learner(keep_best=KeepBest(...), run_dir=...), which writes a checkpoint an epoch and keeps the best",
    "fname": "the best weights are kept in memory and put in the model at the end of the fit, from where learn.save(name) "
    "writes them; files of the best epochs are those of Learner(keep_best=KeepBest(...), run_dir=...)",
    "mode": 'here it is lower: True for "min"',
    "reset_on_fit": "every fit begins anew, and one that is resumed goes on",
    "with_opt": "the optimizer goes on as it is; learn.save(name) writes it too",
}

_OF_PREDICTIONS = {
    "concat_dim": "samples are joined along their first dimension",
    "inner": "in the middle of a fit it works as it is, and puts everything back",
    "reorder": _IN_ORDER,
    "save_preds": "save what is returned",
    "save_targs": "save what is returned",
    "with_preds": "all are returned; take those that you want",
    "with_targs": "all are returned; take those that you want",
}

_OF_LOADERS = {
    "after_batch": "here it is batch_tfms",
    "after_item": "here it is item_tfms",
    "batch_size": "here it is bs, counted over all ranks",
    "before_batch": "give collate= a function of the list of samples",
    "create_batch": "here it is collate",
    "dl_type": "an order= of dist_ai.data.orders says what comes together",
    "pin_memory": "memory is pinned by itself where batches go to a GPU",
    "tfms": "here they are item_tfms, of one item, and batch_tfms, of a batch; what the targets are is a block",
}

_OF_TORCHS_LOADER = {
    "batch_sampler": "an order= of dist_ai.data.orders says what comes together",
    "collate_fn": "here it is collate",
    "generator": "here it is seed",
    "persistent_workers": "workers stay from epoch to epoch by themselves",
    "prefetch_factor": "workers are ahead by themselves",
    "sampler": "shuffle=True, or an order= of dist_ai.data.orders",
    "timeout": "a worker that ends is found by itself",
    "worker_init_fn": "each sample's draws come from the seed and the sample; transforms take a draw",
}

_OF_PARTS = {
    "c": "here it is dls.c, of the loaders",
    "loss_func": "a Learner finds it by the target's type: learn.loss_func",
    "n_inp": "the loaders are told: dataloaders(n_inp=...)",
    "n_subsets": "here it is len(subsets)",
    "show": "loaders draw samples: dls.show_batch()",
    "subset": "here it is subsets[i]",
}

OTHER_WORDS: dict[str, dict[str, str]] = {
    # ---------------------------------------------------------------- arguments: of a function, or of a class as it is made
    "DataLoader.__init__": _OF_LOADERS | _OF_TORCHS_LOADER,
    "IterableLoader.__init__": _OF_LOADERS | _OF_TORCHS_LOADER,
    "Learner.fit": _OF_A_FIT | {"lr_max": "a constant rate is lr; fit_one_cycle has a peak"},
    "Learner.fit_one_cycle": _OF_A_FIT | {"lr": "here it is lr_max", "final_div": "here it is div_final"},
    "Learner.fit_flat_cos": _OF_A_FIT,
    "Learner.fit_sgdr": _OF_A_FIT | {"n_epoch": "here they are n_cycles, the first of cycle_len epochs"},
    "Learner.fine_tune": {
        "callbacks": "here it is cbs",
        "cb": "here it is cbs, one or several",
        "div_final": "of the second fit only pct_start and div; call freeze, fit_one_cycle, unfreeze, fit_one_cycle for more",
        "learning_rate": "here it is base_lr",
        "lr": "here it is base_lr",
        "lr_max": "here it is base_lr",
        "start_epoch": _BY_ITSELF,
        "weight_decay": "here it is wd",
        "n_epoch": "here it is epochs",
        "n_epochs": "here it is epochs",
        "num_epochs": "here it is epochs",
    },
    "Learner.lr_find": {
        "num_iter": "here it is num_it",
        "show_plot": "learn.lr_find().plot() returns the figure",
        "suggest_funcs": "what it returns has all suggestions: valley, slide, minimum, steep",
        "suggestions": "what it returns has all suggestions: valley, slide, minimum, steep",
    },
    "Learner.validate": {
        "metrics": "assign learn.metrics",
        "dataloader": "here it is dl",
        "dataloaders": "here it is dl",
    },
    "Learner.get_preds": _OF_PREDICTIONS
    | {
        "activation": "here it is act",
        "ordered": _IN_ORDER,
        "ds_type": "here it is ds_idx: 0 for training, 1 for validation",
    },
    "Learner.tta": _OF_PREDICTIONS
    | {
        "batch_tfms": "here it is views: a batch transform for each version",
        "cbs": "attach them: with learn.added_cbs(cbs)",
        "item_tfms": "versions are made by the transforms of training, or by those in views",
    },
    "Learner.predict": {
        "rm_type_tfms": "an item is what the items of training were",
        "with_input": "it is the item that was given; learn.show_results draws items with predictions",
    },
    "Learner.show_results": {
        "nrows": "give max_n, and figsize",
        "ncols": "give max_n, and figsize",
        "shuffle": "samples are from all over the data",
    },
    "Learner.save": {"file": "here it is name", "pickle_protocol": "nothing is pickled"},
    "Learner.load": {
        "device": "weights go to where the model is",
        "file": "here it is name",
        "strict": "all weights are read, or none; load_state_dict of learn.model takes some",
    },
    "Learner.export": {"fname": "here it is directory", "pickle_module": "nothing is pickled"},
    "Interpretation.from_learner": {"act": "predictions go through the loss's activation"},
    "ClassificationInterpretation.from_learner": {"act": "predictions go through the loss's activation"},
    "SaveBest.__init__": _OF_A_MONITOR,
    "EarlyStopping.__init__": _OF_A_MONITOR,
    "ReduceLROnPlateau.__init__": _OF_A_MONITOR | {"threshold": "here it is min_delta", "eps": "here it is min_delta"},
    "AccumMetric.__init__": {
        "activation": "here it is prepare, a function of (pred, target); from_sklearn has the usual ones by takes=",
        "dim_argmax": 'here it is prepare, a function of (pred, target); from_sklearn(function, takes="classes") does that',
        "flatten": "here it is prepare, a function of (pred, target)",
        "invert_arg": "from_sklearn gives targets first, as scikit-learn has it",
        "thresh": 'here it is from_sklearn(function, takes="labels", thresh=...)',
        "to_np": "from_sklearn gives arrays",
    },
    "from_sklearn": {
        **dict.fromkeys(("average", "beta", "labels", "multi_class", "pos_label", "weights"), _OPTION_OF_METRIC),
        "activation": "it follows from takes",
        "is_class": 'here it is takes="classes", or "numbers"',
    },
    "Interpretation.plot_top_losses": _OF_A_GRID,
    "ClassificationInterpretation.plot_top_losses": _OF_A_GRID,
    "ClassificationInterpretation.plot_confusion_matrix": {
        "dpi": "the figure is returned: figure.set_dpi(60), or figure.savefig(name, dpi=60)",
        "norm_dec": "shares have two decimals",
        "plot_txt": "counts are always written",
        "title": "the figure is returned: figure.suptitle(...)",
    },
    "load_learner": {
        "cpu": _WHERE,
        "fname": "here it is directory",
        "pickle_module": "nothing is pickled",
    },
    # ---------------------------------------------------------------- options that are handed on
    "LearnerOptions": {
        "accelerator": _WHERE,
        "accumulate_grad_batches": _ACCUMULATE,
        "callbacks": "here it is cbs",
        "config": "what it would hold are arguments of their own",
        "criterion": "here it is loss_func",
        "default_cbs": "progress=False shows no progress, run_dir=None writes nothing, and learn.remove_cb(...) detaches",
        "default_root_dir": "run_dir= says where a run's files go",
        "device": _WHERE,
        "devices": "dist-ai launch --workers starts the program on several; the program stays the same",
        "enable_checkpointing": "run_dir=None writes nothing; checkpoint_every_s says how often",
        "enable_progress_bar": "here it is progress",
        "epochs": "they are learn.fit(epochs)",
        "fast_dev_run": "cbs=ShortEpoch(...) trains on a part of each epoch",
        "gradient_accumulation_steps": _ACCUMULATE,
        "gradient_clip_val": "cbs=GradientClip(...) limits gradients, by norm or by value",
        "init": "the model is initialised as torch does it; give weights=, or change learn.model",
        "learning_rate": "here it is lr",
        "limit_train_batches": "cbs=ShortEpoch(...) trains on a part of each epoch",
        "logger": "cbs=TensorBoard() or another writes; run_dir= says where",
        "loss": "here it is loss_func",
        "loss_fn": "here it is loss_func",
        "max_epochs": "they are learn.fit(epochs)",
        "max_steps": "they are learn.fit(steps=...)",
        "max_time": "it is learn.fit(time=...), in seconds",
        "metric": "here it is metrics, one or several",
        "mixed_precision": "here it is precision",
        "model_dir": "run_dir= says where a run's files go, models in its folder models; learn.save takes a path too",
        "num_nodes": "dist-ai launch starts the program on several machines; the program stays the same",
        "opt": _OPT_FUNC,
        "optimizer": _OPT_FUNC,
        "path": "run_dir= says where a run's files go",
        "splitter": "assign learn.splitter",
        "sync_batchnorm": "here it is sync_bn",
        "weight_decay": "here it is wd",
    },
    "LoaderOptions": _OF_LOADERS,
    "DataBlock.dataloaders": dict.fromkeys(
        ("item_tfms", "batch_tfms", "splitter", "get_items", "get_x", "get_y", "blocks", "n_inp"),
        "it is the DataBlock that is made with it; of one that is there, dblock.new(...) makes another",
    ),
    "ImageOptions": _OF_LOADERS | {"ds_tfms": "here they are item_tfms, of one image, and batch_tfms, of a batch"},
    # ---------------------------------------------------------------- attributes, by class
    "Learner": {
        "all_batches": "give CollectData() to a fit, and look at its data",
        "cbs": "here it is learn.callbacks; learn.add_cb and remove_cb change them",
        "create_mbar": "Learner(progress=False) shows no progress",
        "create_opt": "learn.opt makes the optimizer when it is first needed",
        "detach_distributed": _LAUNCHED,
        "detach_parallel": _LAUNCHED,
        "distrib_ctx": _LAUNCHED,
        "dl": "the loaders are learn.dls.train and learn.dls.valid",
        "epoch": "here it is learn.state.epoch",
        "final_record": "here it is learn.recorder.final",
        "gather_args": "repr(learn) and learn.summary() say what it is made of",
        "iter": "here it is learn.state.step",
        "load_encoder": "learners of texts have it: text_classifier_learner, language_model_learner",
        "logger": "Learner(progress=False) shows no progress; RunLog() and TensorBoard() write",
        "loss": "here it is learn.state.loss",
        "loss_not_reduced": "get_preds(with_loss=True) returns the loss of each sample",
        "model_dir": "models are in the folder models of learn.run_dir",
        "n_epoch": "here it is learn.state.n_epoch",
        "n_iter": "here it is learn.state.num_steps",
        "no_bar": "here it is `with learn.removed_cbs(ProgressBar):`, or Learner(progress=False)",
        "no_logging": "here it is `with learn.removed_cbs(ProgressBar):`, or Learner(progress=False)",
        "no_mbar": "here it is `with learn.removed_cbs(ProgressBar):`, or Learner(progress=False)",
        "one_batch": "dls.one_batch() returns one; the loop has its own way with batches: dist_ai.learner.batch",
        "ordered_cbs": "here it is learn.callbacks.of_event(event)",
        "mixed_precision": "here it is learn.precision",
        "parallel_ctx": _LAUNCHED,
        "path": "here it is learn.run_dir",
        "pct_train": "here it is learn.state.pct_train",
        "plot": "learn.recorder.plot_loss(), learn.lr_find().plot()",
        "pred": "here it is learn.state.pred",
        "save_encoder": "learners of texts have it: text_classifier_learner, language_model_learner",
        "scaler": "here it is in learn.precision",
        "smooth_loss": "here it is learn.recorder.smooth_loss",
        "to_channelslast": "here it is learn.add_cb(ChannelsLast())",
        "to_contiguous": "without ChannelsLast() a model stays as it is",
        "to_detach": "here it is tensor.detach().cpu()",
        "to_distributed": _LAUNCHED,
        "to_non_native_fp16": "here it is learn.to_fp16()",
        "to_non_native_fp32": "here it is learn.to_fp32()",
        "to_parallel": _LAUNCHED,
        "train_iter": "here it is learn.state.train_step",
        "training": "here it is learn.state.training",
        "validation_context": "learn.validate and learn.get_preds evaluate, and put everything back",
        "x": "here it is learn.state.xb, a tuple",
        "xb": "here it is learn.state.xb",
        "y": "here it is learn.state.yb, a tuple",
        "yb": "here it is learn.state.yb",
    },
    "Recorder": {
        "iters": "each of `epochs` has its step",
        "train_metrics": "metrics are of validation; learn.validate(ds_idx=0) computes them on the training data",
        "log": "here it is `epochs`, a dict for each",
        "metric_names": "here it is `names`",
        "plot": "here they are plot_loss, plot_schedule and plot_metrics",
        "plot_losses": "here it is plot_loss",
        "plot_lr": "here it is plot_schedule",
        "plot_lr_find": "here it is learn.lr_find().plot()",
        "plot_sched": "here it is plot_schedule",
        "values": "here it is `epochs`, a dict for each",
    },
    "ActivationStats": {
        "color_dim": "there are no histograms; it has mean, standard deviation and share near zero, in `stats`",
        "hist": "there are no histograms; it has mean, standard deviation and share near zero, in `stats`",
        "plot_layer_stats": "TensorBoard() draws them; they are in `stats`",
    },
    "Optimizer": {
        "all_params": "each of `groups` has params and names",
        "frozen_idx": "a parameter is frozen if it does not require a gradient; see freeze_to",
        "load_state_dict": "here it is load_state",
        "param_lists": "here they are `groups`",
        "state_dict": "here it is state(): tensors by name, and plain data",
    },
    "LRFinding": {"suggestion": "here it is valley; the others are slide, minimum and steep"},
    "Interpretation": {
        "decoded": "learn.get_preds(with_decoded=True) returns them",
        "preds": "learn.get_preds() returns them; an interpretation keeps a loss a sample",
        "targs": "learn.get_preds() returns them; an interpretation keeps a loss a sample",
    },
    "ClassificationInterpretation": {
        "decoded": "learn.get_preds(with_decoded=True) returns them",
        "preds": "learn.get_preds() returns them; an interpretation keeps counts, and a loss a sample",
        "targs": "learn.get_preds() returns them; an interpretation keeps counts, and a loss a sample",
    },
    "DataLoaders": {
        "after_batch": "here it is dls.train.stage.pipeline; dls.add_batch_tfms adds to it",
        "after_item": "here it is dls.train.item_tfms",
        "bs": "here it is dls.train.bs, counted over all ranks",
        "cpu": 'here it is dls.to("cpu"), before a Learner is made',
        "cuda": 'batches go to this process\'s GPU by themselves; dls.to("cuda") has them go there',
        "dataset": "here it is dls.train_ds or dls.valid_ds",
        "loaders": "list(dls) are the loaders",
        "loss_func": "a Learner finds it by the target's type: learn.loss_func",
        "new": "of one loader: dls.train.new(bs=...)",
        "path": "a Learner has run_dir",
        "test_ds": "a loader of new items is dls.test_dl(items)",
        "tfms": "the transforms are in dls.recipe",
    },
    "BaseLoader": {
        "after_batch": "here it is stage.pipeline; dls.add_batch_tfms adds to it",
        "after_item": "here it is item_tfms",
        "batch_sampler": "the order of an epoch is a plan; DataLoader(order=...) takes another",
        "batch_size": "here it is bs, counted over all ranks",
        "collate_fn": "it is given when the loader is made, as collate",
        "decode": "dls.decode_batch(batch) returns the samples of a batch, decoded",
        "decode_batch": "dls.decode_batch(batch) returns the samples of a batch, decoded",
        "items": "they are those of its data set: dls.train_ds.items",
        "n": "here it is num_samples",
        "sampler": "the order of an epoch is a plan; DataLoader(order=...) takes another",
        "vocab": "here it is dls.vocab",
    },
    "Datasets": _OF_PARTS | {"tls": "here they are `pipelines`, one for each element"},
    "TfmdLists": _OF_PARTS | {"fs": "here it is pipeline.tfms", "tfms": "here it is pipeline.tfms"},
    "Callback": {
        **{
            name: f"here it is self.state.{name}"
            for name in ("epoch", "loss", "n_epoch", "pct_train", "pred", "training", "xb", "yb")
        },
        **{name: f"here it is self.learn.{name}" for name in ("dls", "loss_func", "lr", "model", "opt", "recorder")},
        "dl": "here it is self.learn.dls.train or valid",
        "iter": "here it is self.state.step",
        "loss_grad": "here it is self.state.loss, which is back-propagated",
        "n_iter": "here it is self.state.num_steps",
        "name": "here it is type(self).__name__",
        "smooth_loss": "here it is self.learn.recorder.smooth_loss",
        "train_iter": "here it is self.state.train_step",
        "x": "here it is self.state.xb, a tuple",
        "y": "here it is self.state.yb, a tuple",
    },
    "TrainState": {
        **{
            name: f"here it is self.learn.{name}"
            for name in ("dls", "loss_func", "lr", "metrics", "model", "opt", "recorder")
        },
        "iter": "here it is step",
        "learn": "here it is self.learn",
        "n_iter": "here it is num_steps",
        "smooth_loss": "here it is self.learn.recorder.smooth_loss",
        "train_iter": "here it is train_step",
        "x": "here it is xb, a tuple",
        "y": "here it is yb, a tuple",
    },
    # ---------------------------------------------------------------- what a callback's class defines, and nothing would read
    "a callback defines": {
        "after_cancel_valid": "here it is after_cancel_validate",
        "after_create": "here it is attach(self, learn), which calls super().attach(learn) first",
        "begin_batch": "here it is before_batch",
        "begin_epoch": "here it is before_epoch",
        "begin_fit": "here it is before_fit",
        "begin_train": "here it is before_train",
        "begin_validate": "here it is before_validate",
        "on_after_backward": "here it is after_backward",
        "on_backward_end": "here it is after_backward",
        "on_batch_begin": "here it is before_batch",
        "on_batch_end": "here it is after_batch",
        "on_before_optimizer_step": "here it is before_step",
        "on_epoch_begin": "here it is before_epoch",
        "on_epoch_end": "here it is after_epoch",
        "on_fit_end": "here it is after_fit",
        "on_fit_start": "here it is before_fit",
        "on_loss_begin": "here it is after_pred",
        "on_step_begin": "here it is before_step",
        "on_step_end": "here it is after_step",
        "on_train_batch_end": "here it is after_batch, if self.state.training",
        "on_train_batch_start": "here it is before_batch, if self.state.training",
        "on_train_begin": "here it is before_fit",
        "on_train_end": "here it is after_fit",
        "on_train_epoch_end": "here it is after_train, or after_epoch",
        "on_train_epoch_start": "here it is before_train",
        "on_train_start": "here it is before_fit",
        "on_validation_batch_end": "here it is after_batch, if not self.state.training",
        "on_validation_end": "here it is after_validate",
        "on_validation_epoch_end": "here it is after_validate",
        "on_validation_start": "here it is before_validate",
    },
    # The same where it is no method: one of its own may be called as it likes.
    "a callback sets": {
        "order": "here it is phase, such as phase = Phase.RECORD",
        "run": "decorate an event with @when(...), or add and remove the callback",
        "run_after": "here it is phase, such as phase = Phase.RECORD",
        "run_before": "here it is phase, such as phase = Phase.RECORD",
        "run_train": "ask self.state.training in the event, or decorate it: @when(...)",
        "run_valid": "ask self.state.training in the event, or decorate it: @when(...)",
    },
    # ---------------------------------------------------------------- what is imported, by room
    "dist_ai": _IN_OTHER_ROOMS
    | _lies_in("dist_ai.callbacks", "Callback EarlyStopping SaveBest")
    | _lies_in("dist_ai.data", "DataLoader get_image_files sample_data")
    | _lies_in("dist_ai.export", "Predictor")
    | _lies_in("dist_ai.tabular", "TabularDataLoaders tabular_learner")
    | _lies_in("dist_ai.text", "TextDataLoaders language_model_learner text_classifier_learner")
    | _lies_in("dist_ai.vision", "ImageDataLoaders Resize aug_transforms unet_learner vision_learner")
    | {
        "Trainer": "here it is Learner of dist_ai.learner, whose fit trains",
        "launch": 'it is in dist_ai.distributed: launch("train.py", workers=2), or launch(function, args, workers=2)',
    },
    "dist_ai.collab": _IN_OTHER_ROOMS | {"TabularCollab": "CollabDataLoaders makes what it is for"},
    "dist_ai.data": _lies_in("dist_ai.learner", _OF_ANY_LEARNER)
    | _lies_in("dist_ai.core", "Transform")
    | _lies_in("dist_ai.tabular", "TabularDataLoaders")
    | _lies_in("dist_ai.text", "TextBlock TextDataLoaders")
    | _lies_in("dist_ai.vision", "ImageBlock ImageDataLoaders MaskBlock SegmentationDataLoaders")
    | _lies_in("dist_ai.vision", "Normalize")
    | {
        "Category": "a label is its text, and Categorize makes its number of it",
        "CategoryMap": "here it is Categorize, which has the classes as vocab",
        "IntToFloatTensor": "here it is ImageToFloat of dist_ai.vision, and an ImageBlock has it",
        "L": "lists are Python's",
        "TfmdDL": "here it is DataLoader",
        "ToTensor": "here it is ImageToTensor of dist_ai.vision, and an ImageBlock has it",
        "using_attr": "write it as it is: lambda file: RegexLabeller(pattern)(file.name)",
        "URLs": "untar_data takes an address; sample_data is there without one",
    },
    "dist_ai.export": _lies_in("dist_ai.learner", "load_learner"),
    "dist_ai.tabular": _IN_OTHER_ROOMS
    | {
        "FillStrategy": 'FillMissing takes its name: "median", "mode" or "constant"',
        "ReadTabBatch": "here it is ReadRows",
        "TabDataLoader": "TabularPandas(...).dataloaders() makes both",
        "TabWeightedDL": "loaders take weights=, a number for each training row",
        "Tabular": "here it is TabularPandas",
        "TabularLearner": "tabular_learner makes a Learner",
        "add_cyclic_datepart": "add_datepart has the parts; their sines and cosines are columns of your own",
        "df_shrink": "the numbers of a table are held as float32 by themselves",
        "df_shrink_dtypes": "the numbers of a table are held as float32 by themselves",
        "emb_sz_rule": "here it is embedding_size of dist_ai.layers",
        "range_of": "range(len(df)) does",
        "tabular_config": "what it holds are arguments of tabular_learner",
    },
    "dist_ai.text": _IN_OTHER_ROOMS
    | _lies_in("dist_ai.metrics", "CorpusBLEUMetric Perplexity")
    | _lies_in("dist_ai.callbacks", "RNNRegularizer")
    | _lies_in("dist_ai.core", "TensorText")
    | dict.fromkeys(
        ["awd_lstm_clas_config", "awd_lstm_lm_config", "awd_qrnn_clas_config", "awd_qrnn_lm_config"],
        'learners take what differs from the usual: config={"n_hid": 512}',
    )
    | dict.fromkeys(
        [
            "fix_html",
            "replace_all_caps",
            "replace_maj",
            "replace_rep",
            "replace_wrep",
            "rm_useless_spaces",
            "spec_add_spaces",
        ],
        "rules are called by name: Tokenize(rules=[...]), of those in text_rules",
    )
    | dict.fromkeys(
        ["tokenize_csv", "tokenize_df", "tokenize_folder", "tokenize_texts"],
        "TextDataLoaders tokenize, in parallel; cache= keeps what comes of it",
    )
    | {
        "AWD_QRNN": "there is AWD_LSTM, and no QRNN",
        "BaseTokenizer": "here it is Tokenize",
        "LMTensorText": "here it is TensorLMText of dist_ai.core",
        "SortedDL": "loaders of texts put those of similar length together by themselves",
        "get_language_model": "here it is text_language_model of dist_ai.text.models",
        "get_text_classifier": "here it is text_classifier of dist_ai.text.models",
        "make_vocab": "Tokenize(min_freq=, max_vocab=) makes the vocabulary of the training texts",
        "LMDataLoader": "TextBlock(is_lm=True) and TextDataLoaders.from_df(..., is_lm=True) make such loaders",
        "Numericalize": "Tokenize makes the numbers too, and has the vocabulary",
        "SpacyTokenizer": 'here it is Tokenize(), whose kind "word" parts words',
        "SubwordTokenizer": 'here it is Tokenize(kind="unigram"), or "bpe"',
        "Tokenizer": "here it is Tokenize",
        "TokenizerBlock": "here it is TextBlock",
        "WordTokenizer": 'here it is Tokenize(), whose kind "word" parts words',
        "pad_input": "a TextBlock pads by itself; Pad of dist_ai.data is a collate of your own",
        "pad_input_chunk": "a TextBlock pads by itself; Pad of dist_ai.data is a collate of your own",
    },
    "dist_ai.timeseries": _IN_OTHER_ROOMS
    | {
        name: f'here it is its name, as in ts_learner(dls, "{name}")'
        for name in ["FCN", "InceptionTime", "LSTM_FCN", "MiniRocket", "PatchTST", "TST"]
    }
    | {
        "SlidingWindow": "TSForecastDataLoaders cuts windows: context=, horizon=",
        "TSClassifier": "ts_learner of TSDataLoaders is one",
        "TSForecaster": "forecast_learner of TSForecastDataLoaders is one",
        "TSNormalize": "here it is ScaleRange",
        "TSRegressor": "ts_learner of TSDataLoaders whose labels are numbers is one",
        "TSStandardize": "here it is Standardize, or StandardizeEach for each series by itself",
        "TimeSplitter": "here it is WalkForwardSplitter",
        "get_UCR_data": "read_tsv and read_ts read its files; nothing is fetched",
        "get_splits": "TSDataLoaders take valid_pct=, splits= or valid=",
        "get_ts_dls": "here it is TSDataLoaders.from_arrays",
    },
    "dist_ai.vision": _IN_OTHER_ROOMS
    | _lies_in("dist_ai.data", "GrandparentSplitter RegexLabeller get_image_files parent_label")
    | _lies_in("dist_ai.learner", "SegmentationInterpretation")
    | _lies_in("dist_ai.metrics", "Dice DiceMulti JaccardCoeff accuracy_multi foreground_acc")
    | {
        name: _BY_NAME.format(name)
        for name in [
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnet152",
            "xresnet18",
            "xresnet34",
            "xresnet50",
            "densenet121",
            "vgg16_bn",
            "squeezenet1_1",
            "mobilenet_v2",
            "efficientnet_b0",
            "convnext_tiny",
        ]
    }
    | {
        "ImageClassifierCleaner": _FILE_OF_SAMPLE,
        "ImageDataBunch": "here it is ImageDataLoaders",
        "IntToFloatTensor": "here it is ImageToFloat, and an ImageBlock has it",
        "PILImageBW": 'here it is ImageBlock("L")',
        "ToTensor": "here it is ImageToTensor, and an ImageBlock has it",
        "create_body": "there is one in dist_ai.vision.models",
        "create_cnn_model": "here it is vision_model of dist_ai.vision.models",
        "create_head": "there is one in dist_ai.vision.models",
        "show_image": "show_batch and show_results return figures; matplotlib's imshow draws an array",
        "AffineCoordTfm": "Rotate, Zoom, Warp and others are put together by themselves; View is one that nothing draws",
        "BBoxLabeler": "BBoxBlock and BBoxLblBlock have what boxes need",
        "DeterministicDihedral": "dihedral_views() for learn.tta(views=...) are these",
        "DeterministicFlip": "flip_views() for learn.tta(views=...) are these",
        "DynamicUnet": "here it is UNet of dist_ai.vision.models",
        "GANLearner": "here it is gan_learner",
        "PointScaler": "PointBlock has what points need",
        "RandTransform": "a Transform of dist_ai.core whose encodes takes a draw is one",
        "XResNet": "here it is xresnet of dist_ai.vision.models",
        "bb_pad": "BBoxBlock and BBoxLblBlock have what boxes need",
        "cifar_stats": "here it is Normalize(mean, std), with numbers of your own",
        "create_unet_model": "here it is unet of dist_ai.vision.models",
        "create_vision_model": "here it is vision_model of dist_ai.vision.models",
        "download_image": "here it is download_images, of several",
        "load_image": "here it is OpenImage()(file)",
        "mnist_stats": "here it is Normalize(mean, std), with numbers of your own",
        "setup_aug_tfms": "transforms are put together by themselves",
        "show_images": "show_batch and show_results return figures; matplotlib's imshow draws an array",
        "verify_image": "here it is verify_images, of several",
        "PILImage": "an image is a file, an array or one of Pillow's; ImageBlock reads all of them",
        "PILMask": "a mask is a file, an array or one of Pillow's; MaskBlock reads all of them",
        "PadMode": 'here it is pad_mode="reflection", "border" or "zeros"',
        "ResizeMethod": 'here it is method="crop", "pad" or "squish"',
        "cnn_learner": "here it is vision_learner",
    },
    "dist_ai.layers": {
        **{name: _OF_TORCH.format(name) for name in ("Embedding", "Flatten", "Mish", "Module")},
        "AdaptiveConcatPool2d": "here it is ConcatPool2d",
        "ConvLayer": "here it is conv_layer, a function",
        "LinBnDrop": "here it is linear_layer, a function; hidden_layers makes several",
        "Swish": "here it is torch's, nn.SiLU",
        "sigmoid_range": "here it is SigmoidRange(low, high), a module",
    },
    "dist_ai.callbacks": {
        "AdaptiveGANSwitcher": "dist_ai.vision.gan.GANTrainer takes turns of n_crit and n_gen steps",
        "AzureMLCallback": "TensorBoard() writes events, and RunLog() log.jsonl and metrics.csv, for whatever reads them",
        "BatchSizeFinder": "AutoMicrobatch() makes batches smaller when memory runs out",
        "BnFreeze": "here it is FreezeBatchNorm",
        "CSVLogger": "here it is RunLog, which writes metrics.csv and log.jsonl; a Learner with a run directory has it",
        "CancelBackwardException": "here it is CancelBackward",
        "CancelBatchException": "here it is CancelBatch",
        "CancelEpochException": "here it is CancelEpoch",
        "CancelFitException": "here it is CancelFit",
        "CancelStepException": "here it is CancelStep",
        "CancelTrainException": "here it is CancelTrain",
        "CancelValidException": "here it is CancelValidate",
        "CastToTensor": "a model gets plain tensors by itself",
        "CollectDataCallback": "here it is CollectData",
        "CometCallback": "TensorBoard() writes events, and RunLog() log.jsonl and metrics.csv, for whatever reads them",
        "DeviceStatsMonitor": "here they are Throughput and MemoryMonitor",
        "DistributedTrainer": _LAUNCHED,
        "EMACallback": "here it is EMA",
        "EarlyStoppingCallback": "here it is EarlyStopping",
        "FetchPredsCallback": "here it is FetchPreds",
        "FixedGANSwitcher": "dist_ai.vision.gan.GANTrainer takes turns of n_crit and n_gen steps",
        "GANDiscriminativeLR": "generator and critic are parameter groups: fit(5, [1e-4, 4e-4])",
        "GANTrainer": "it is in dist_ai.vision.gan",
        "GatherPredsCallback": "here it is learn.get_preds()",
        "GradientAccumulationScheduler": "here it is GradientAccumulation",
        "GradientClipping": "here it is GradientClip",
        "Hook": "torch's are module.register_forward_hook; ActivationStats uses them",
        "HookCallback": "torch's are module.register_forward_hook, put there in before_fit and removed in after_fit",
        "Hooks": "torch's are module.register_forward_hook; ActivationStats uses them",
        "LRFinder": "here it is learn.lr_find()",
        "LearningRateFinder": "here it is learn.lr_find()",
        "LearningRateMonitor": "a Learner's recorder and logs have the learning rate of every step",
        "LearningRateScheduler": "here it is ParamScheduler",
        "MCDropoutCallback": "here it is MCDropout",
        "MixedPrecision": 'here it is Learner(precision="bf16") or "fp16", or learn.to_bf16() and to_fp16()',
        "ModelCheckpoint": "a Learner with a run directory writes checkpoints; the best stay by Learner(keep_best=KeepBest(...))",
        "ModelResetter": "here it is ResetRNN",
        "ModelToHalf": 'here it is Learner(precision="fp16")',
        "NonNativeMixedPrecision": 'here it is Learner(precision="fp16")',
        "ParallelTrainer": _LAUNCHED,
        "ProgressCallback": "here it is ProgressBar",
        "RNNCallback": "a model of dist_ai.text needs none; CarryState and RNNRegularizer are what it has beside it",
        "RichProgressBar": "here it is ProgressBar",
        "SaveModelCallback": "here it is SaveBest, which ends a fit with its best weights; for files: "
        "Learner(keep_best=KeepBest(...))",
        "ShortEpochCallback": "here it is ShortEpoch",
        "ShowGraphCallback": "learn.recorder.plot_loss() and plot_metrics() draw what is there; TensorBoard() shows it live",
        "SkipToEpoch": _BY_ITSELF,
        "StochasticWeightAveraging": "here it is SWA",
        "TQDMProgressBar": "here it is ProgressBar",
        "TensorBoardCallback": "here it is TensorBoard, which a Learner with a run directory has",
        "TensorBoardProjectorCallback": "there is none; TensorBoard() is a callback to begin from",
        "TerminateOnNaNCallback": "here it is TerminateOnNaN",
        "TrackerCallback": "dist_ai.callbacks.monitor.Monitor follows a metric for a callback of your own",
        "TrainEvalCallback": "the loop does it by itself",
        "WandbCallback": "TensorBoard() writes events, and RunLog() log.jsonl and metrics.csv, for whatever reads them",
        "before_batch_cb": 'here it is on("before_batch"), of a function',
    },
    "dist_ai.losses": {
        "BCELoss": "BCEWithLogitsLoss takes what comes before the sigmoid, which is more exact",
        "BCELossFlat": "BCEWithLogitsLoss takes what comes before the sigmoid, which is more exact",
        "BCEWithLogitsLossFlat": "here it is BCEWithLogitsLoss",
        "BaseLoss": "a module with activation and decodes is a loss; see dist_ai.losses.loss",
        "CrossEntropyLossFlat": "here it is CrossEntropyLoss",
        "FocalLossFlat": "here it is FocalLoss",
        "L1LossFlat": "here it is L1Loss",
        "LabelSmoothingCrossEntropy": "here it is CrossEntropyLoss(label_smoothing=0.1)",
        "LabelSmoothingCrossEntropyFlat": "here it is CrossEntropyLoss(label_smoothing=0.1)",
        "MSELossFlat": "here it is MSELoss",
        "NoneReduce": "here it is sample_losses(loss, pred, target)",
    },
    "dist_ai.metrics": {
        "Accuracy": "here it is accuracy, a function",
        "AvgLoss": "the Recorder has the training loss and the validation loss",
        "AvgSmoothLoss": "here it is learn.recorder.smooth_loss",
        "LossMetrics": "the parts of a CompositeLoss are logged by themselves; LossMetric is one of a loss of your own",
        "ValueMetric": "what is any statistic of a Metric's own is a class with reset, update, statistics and value",
        "mk_metric": "here it is as_metrics, and a Learner does it by itself",
        "optim_metric": "there is none; learn.get_preds() returns what to search thresholds on",
        "perplexity": "here it is Perplexity()",
        "skm_to_fastai": "here it is from_sklearn",
    },
    "dist_ai.optimizer": {
        "Lamb": "here it is LAMB",
        "Larc": "here it is LARC; with clip=False it was LARS",
        "OptimWrapper": "an optimizer of torch is taken as it is: opt_func=torch.optim.AdamW, or learn.opt = optimizer",
        "RangerWrapper": "here it is Ranger",
        "SchedCos": "here it is cosine",
        "SchedExp": "here it is exponential",
        "SchedLin": "here it is linear",
        "SchedNo": "here it is constant",
        "SchedPoly": "here it is polynomial",
        "annealer": "a function of the position, 0 to 1, is a schedule; see dist_ai.optimizer.schedules",
        "combine_scheds": "here it is combine, of pairs (share, schedule)",
        "combined_cos": "here it is one_cycle(low, high, final, pct_start)",
        "l2_reg": "it is in dist_ai.optimizer.steps; a recipe takes it by decouple_wd=False",
        "ranger": "here it is Ranger",
        **dict.fromkeys(
            ("adam_step", "average_grad", "average_sqr_grad", "momentum_step", "sgd_step"),
            "it is in dist_ai.optimizer.steps, as a function of (parameters, gradients, state, hyper-parameters)",
        ),
        "weight_decay": "it is in dist_ai.optimizer.steps; a recipe has wd",
    },
    "dist_ai.learner": {
        "AvgLoss": "the Recorder has the training loss and the validation loss",
        "AvgMetric": "it is in dist_ai.metrics",
        **dict.fromkeys(("SuggestionMethod", "minimum", "slide", "steep", "valley"), _ALL_SUGGESTIONS),
        "AvgSmoothLoss": "here it is learn.recorder.smooth_loss",
        "Metric": "it is in dist_ai.metrics",
        "Recorder": "it is in dist_ai.callbacks; learn.recorder is a Learner's",
        "SkipToEpoch": _BY_ITSELF,
        "CaptumInterpretation": "there is none; captum takes learn.model as it is",
        "Trainer": "here it is Learner, whose fit trains",
        "trainable_params": "here it is the default splitter, one group of all",
        "load_model": "here it is learn.load(name)",
        "save_model": "here it is learn.save(name)",
    },
}
"""By place (a function's or a class's qualified name, a room, or what is looked at): a name, and what to do instead."""
