"""Names that other libraries have for something: each is there, or the error says what it is called here."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from toy import make_dls, make_learner

from dist_ai.callbacks import Callback, EarlyStopping, Recorder, ReduceLROnPlateau, SaveBest, TrainState
from dist_ai.core.names import OTHER_WORDS, known_arguments, missing_attribute
from dist_ai.data import CategoryBlock, DataBlock, DataLoader, DataLoaders, Datasets, IterableLoader, TfmdLists
from dist_ai.data.base_loader import BaseLoader
from dist_ai.data.loaders import LoaderOptions
from dist_ai.errors import ConfigError
from dist_ai.learner import ClassificationInterpretation, Interpretation, Learner, LearnerOptions, load_learner
from dist_ai.learner.lr_finder import LRFinding
from dist_ai.metrics import AccumMetric, from_sklearn
from dist_ai.optimizer import Optimizer
from dist_ai.vision import ImageDataLoaders, SegmentationDataLoaders, vision_learner
from dist_ai.vision.data import ImageOptions

ROOMS = ("callbacks", "losses", "metrics", "optimizer", "learner")
OTHER_ROOMS = ("collab", "data", "export", "layers", "tabular", "text", "timeseries", "vision")

# fastai's names, as its users type them: callbacks, losses, metrics, optimizers, what a Learner has.
IMPORTED = """
    ActivationStats BnFreeze CSVLogger Callback CancelBackwardException CancelBatchException CancelEpochException
    CancelFitException CancelStepException CancelTrainException CancelValidException CastToTensor ChannelsLast
    CollectDataCallback CometCallback CutMix DistributedTrainer EarlyStoppingCallback FetchPredsCallback FixedGANSwitcher
    GANTrainer GatherPredsCallback GradientAccumulation GradientClip HookCallback LRFinder MCDropoutCallback MixUp
    MixedPrecision ModelResetter ParamScheduler ProgressCallback RNNCallback RNNRegularizer Recorder ReduceLROnPlateau
    SaveModelCallback ShortEpochCallback ShowGraphCallback SkipToEpoch TensorBoardCallback TerminateOnNaNCallback
    TrackerCallback TrainEvalCallback WandbCallback BaseLoss BCELossFlat BCEWithLogitsLossFlat CrossEntropyLossFlat DiceLoss
    FocalLoss FocalLossFlat L1LossFlat LabelSmoothingCrossEntropy LabelSmoothingCrossEntropyFlat MSELossFlat AccumMetric
    APScoreBinary APScoreMulti BalancedAccuracy BrierScore CohenKappa CorpusBLEUMetric Dice DiceMulti ExplainedVariance
    F1Score F1ScoreMulti FBeta HammingLoss Jaccard JaccardCoeff LossMetric LossMetrics MatthewsCorrCoef PearsonCorrCoef
    Perplexity Precision R2Score Recall RocAuc RocAucBinary SpearmanCorrCoef ValueMetric accuracy accuracy_multi error_rate
    exp_rmspe foreground_acc mae mk_metric mse msle optim_metric perplexity rmse skm_to_fastai top_k_accuracy Adam Lamb Larc
    Lookahead OptimWrapper Optimizer QHAdam RAdam RMSProp SGD SchedCos SchedExp SchedLin SchedNo SchedPoly annealer
    combine_scheds combined_cos ranger AvgMetric ClassificationInterpretation Interpretation Learner Metric
    SegmentationInterpretation load_learner load_model save_model
"""

OF_A_LEARNER = """
    add_cb add_cbs added_cbs create_opt dls epoch export final_record fine_tune fit fit_flat_cos fit_one_cycle fit_sgdr
    freeze freeze_to get_preds iter load load_encoder loss_func lr lr_find metrics model moms n_epoch no_bar no_logging opt
    opt_func ordered_cbs path pct_train pred predict recorder remove_cb remove_cbs removed_cbs save show_results
    show_training_loop smooth_loss splitter summary to_bf16 to_channelslast to_distributed to_fp16 to_fp32 to_parallel
    training tta unfreeze validate wd xb yb
"""

ARGUMENTS: list[tuple[Callable[..., Any], str]] = [
    (
        DataLoader,
        "dataset bs num_workers pin_memory timeout batch_size shuffle drop_last device persistent_workers after_item "
        "before_batch after_batch create_batch sampler batch_sampler collate_fn generator prefetch_factor worker_init_fn",
    ),
    (IterableLoader, "bs num_workers batch_size pin_memory persistent_workers after_item after_batch collate_fn"),
    (
        Learner,
        "dls model loss_func opt_func lr splitter cbs metrics path model_dir wd wd_bn_bias train_bn moms default_cbs",
    ),
    (Learner.fit, "n_epoch lr wd cbs reset_opt start_epoch"),
    (Learner.fit_one_cycle, "n_epoch lr_max div div_final pct_start wd moms cbs reset_opt start_epoch"),
    (Learner.fit_flat_cos, "n_epoch lr div_final pct_start wd cbs reset_opt start_epoch"),
    (Learner.fit_sgdr, "n_cycles cycle_len lr_max cycle_mult cbs reset_opt wd start_epoch"),
    (Learner.fine_tune, "epochs base_lr freeze_epochs lr_mult pct_start div wd cbs lr"),
    (Learner.lr_find, "start_lr end_lr num_it stop_div show_plot suggest_funcs"),
    (Learner.validate, "ds_idx dl cbs"),
    (
        Learner.get_preds,
        "ds_idx dl with_input with_decoded with_loss act inner reorder cbs save_preds save_targs with_preds with_targs "
        "concat_dim",
    ),
    (Learner.tta, "ds_idx dl n item_tfms batch_tfms beta use_max"),
    (Learner.predict, "item rm_type_tfms with_input"),
    (Learner.show_results, "ds_idx dl max_n shuffle"),
    (Learner.save, "file with_opt pickle_protocol"),
    (Learner.load, "file device with_opt strict"),
    (Learner.export, "fname pickle_module"),
    (ClassificationInterpretation.from_learner, "learn ds_idx dl act"),
    (SaveBest, "monitor comp min_delta fname every_epoch at_end with_opt reset_on_fit"),
    (EarlyStopping, "monitor comp min_delta patience reset_on_fit"),
    (ReduceLROnPlateau, "monitor comp min_delta patience factor min_lr reset_on_fit"),
    (AccumMetric, "dim_argmax activation thresh to_np invert_arg flatten name"),
    (from_sklearn, "average beta is_class labels thresh axis activation"),
    (Interpretation.plot_top_losses, "k largest nrows ncols figsize"),
    (ClassificationInterpretation.plot_top_losses, "k largest nrows ncols figsize"),
    (ClassificationInterpretation.plot_confusion_matrix, "normalize title cmap norm_dec plot_txt figsize dpi"),
    (load_learner, "fname cpu pickle_module"),
]


def place_of(function: Any) -> str:
    return function.__init__.__qualname__ if isinstance(function, type) else function.__qualname__


def test_fastais_names_are_there_or_the_import_says_what_it_is_here() -> None:
    rooms = {name: importlib.import_module(f"dist_ai.{name}") for name in ROOMS}
    for name in IMPORTED.split():
        there = [room for room, module in rooms.items() if name in vars(module)]
        told = [room for room in ROOMS if name in OTHER_WORDS[f"dist_ai.{room}"]]
        assert there or told, name
        for room in told:
            with pytest.raises(ImportError, match=re.escape(f"dist_ai.{room} has no {name}; ")):
                exec(f"from dist_ai.{room} import {name}")
    with pytest.raises(ImportError) as raised:
        exec("from dist_ai.callbacks import SaveModelCallback")
    assert str(raised.value) == (
        "dist_ai.callbacks has no SaveModelCallback; here it is SaveBest, which ends a fit with its best weights; for files: "
        "Learner(keep_best=KeepBest(...))"
    )


def test_what_is_asked_of_the_wrong_room_is_in_the_one_that_the_error_names() -> None:
    rooms = [place for place in OTHER_WORDS if place.split(".")[0] == "dist_ai"]
    assert {"dist_ai", "dist_ai.data", "dist_ai.tabular", "dist_ai.text", "dist_ai.vision"} <= set(rooms)
    for room in rooms:
        for name, words in OTHER_WORDS[room].items():
            with pytest.raises(ImportError, match=re.escape(f"{room} has no {name}; {words}")):
                exec(f"from {room} import {name}")
            if elsewhere := re.fullmatch(r"it is in (dist_ai\.\w+)", words):
                exec(f"from {elsewhere[1]} import {name}")


def test_the_package_itself_has_no_other_name_and_its_rooms_are_imported_as_ever() -> None:
    import dist_ai

    assert not hasattr(dist_ai, "Lerner")
    with pytest.raises(ImportError, match="cannot import name 'Lerner' from 'dist_ai'"):
        exec("from dist_ai import Lerner")
    exec("from dist_ai import tuning")


def test_a_slip_in_an_option_of_image_loaders_is_seen_before_the_folder_is_looked_at() -> None:
    with pytest.raises(
        TypeError, match=r"ImageDataLoaders.from_folder has no argument 'valid_pc'; did you mean 'valid_pct'\?"
    ):
        ImageDataLoaders.from_folder("nowhere", valid_pc=0.2)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(
        TypeError, match="dataloaders has no argument 'item_tfms'; it is the DataBlock that is made with it"
    ):
        DataBlock(CategoryBlock).dataloaders("nowhere", item_tfms=None)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="has no argument 'item_tfm'; did you mean 'item_tfms'"):
        ImageDataLoaders.from_df(None, item_tfm=None)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(TypeError, match="has no argument 'batch_size'; here it is bs, counted over all ranks"):
        SegmentationDataLoaders.from_label_func("nowhere", [], str, batch_size=2)  # type: ignore[call-arg]  # wrong on purpose


def test_what_a_room_does_not_have_is_an_attribute_error_as_ever() -> None:
    callbacks = importlib.import_module("dist_ai.callbacks")
    with pytest.raises(AttributeError, match=r"module 'dist_ai\.callbacks' has no attribute 'SaveBst'"):
        _ = callbacks.SaveBst
    assert not hasattr(callbacks, "SaveBst")


def test_what_a_fastai_learner_has_is_there_or_the_error_says_where() -> None:
    learn = make_learner()
    for name in OF_A_LEARNER.split():
        if not hasattr(learn, name):
            with pytest.raises(AttributeError, match=f"a Learner has no attribute '{name}'; "):
                getattr(learn, name)
    with pytest.raises(AttributeError) as raised:
        learn.no_bar()  # type: ignore[attr-defined]  # wrong on purpose
    assert str(raised.value) == (
        "a Learner has no attribute 'no_bar'; here it is `with learn.removed_cbs(ProgressBar):`, or Learner(progress=False)"
    )
    with pytest.raises(AttributeError, match="a Recorder has no attribute 'plot_sched'; here it is plot_schedule"):
        learn.recorder.plot_sched()  # type: ignore[attr-defined]  # wrong on purpose
    with pytest.raises(
        AttributeError, match=r"no attribute 'cpu'; here it is dls\.to\(.cpu.\), before a Learner is made"
    ):
        make_dls().cpu()  # type: ignore[attr-defined]  # wrong on purpose


@pytest.mark.parametrize(("function", "arguments"), ARGUMENTS, ids=lambda value: getattr(value, "__qualname__", ""))
def test_fastais_arguments_are_taken_or_the_error_says_what_they_are_here(
    function: Callable[..., Any], arguments: str
) -> None:
    own = inspect.signature(function).parameters
    for name in arguments.split():
        if name not in own:
            with pytest.raises(TypeError) as raised:
                function(**{name: None})
            called = place_of(function).removesuffix(".__init__")
            assert str(raised.value).startswith(f"{called} has no argument '{name}'; ")
            assert "did you mean" not in str(raised.value)


def test_options_that_are_handed_on_are_looked_at_before_anything_is_done() -> None:
    for name, said in {
        "metric": "here it is metrics",
        "lrr": "did you mean 'lr'?",
        "splitter": "assign learn.splitter",
    }.items():
        with pytest.raises(TypeError, match=f"vision_learner has no argument '{name}'; {re.escape(said)}"):
            vision_learner(None, "no architecture", **{name: None})  # type: ignore[arg-type,misc]  # wrong on purpose


class Theirs(Callback):
    """A callback as fastai has them."""

    may_cancel = False

    def after_pred(self) -> None:
        _ = self.pred  # type: ignore[attr-defined]  # wrong on purpose


class LooksInState(Callback):
    """A callback that takes the state for all there is."""

    may_cancel = False

    def after_loss(self) -> None:
        _ = self.state.model  # type: ignore[attr-defined]  # wrong on purpose


def test_what_is_asked_of_the_state_and_is_the_learners_is_told() -> None:
    with pytest.raises(AttributeError, match=r"a TrainState has no attribute 'model'; here it is self\.learn\.model"):
        make_learner(cbs=LooksInState()).fit(1)


FROM_THE_BOOK = {
    "core": "Pipeline Transform ItemTransform",
    "data": "L URLs using_attr RegexLabeller Normalize ToTensor IntToFloatTensor TfmdLists Datasets CategoryMap TfmdDL",
    "layers": "AdaptiveConcatPool2d ConvLayer Embedding Flatten LinBnDrop Mish Module ResBlock SigmoidRange Swish sigmoid_range",
    "learner": "SuggestionMethod minimum slide steep valley",
    "optimizer": "adam_step average_grad average_sqr_grad momentum_step sgd_step",
    "tabular": "Categorify FillMissing Normalize TabDataLoader TabularPandas cont_cat_split df_shrink range_of",
    "text": "AWD_LSTM LMDataLoader Numericalize SubwordTokenizer TextBlock Tokenizer WordTokenizer pad_input",
    "vision": "ImageBlock ImageClassifierCleaner PILImage PILImageBW ResizeMethod ToTensor create_body create_head "
    "imagenet_stats resnet18 resnet34 show_image xresnet50",
}


@pytest.mark.parametrize("room", FROM_THE_BOOK)
def test_what_fastbook_imports_is_there_or_the_import_says_what_it_is_here(room: str) -> None:
    module = importlib.import_module(f"dist_ai.{room}")
    for name in FROM_THE_BOOK[room].split():
        assert (name in vars(module)) != (name in OTHER_WORDS.get(f"dist_ai.{room}", {})), name


def test_a_callback_in_fastais_words_is_told_ours() -> None:
    with pytest.raises(AttributeError, match=r"a Theirs has no attribute 'pred'; here it is self\.state\.pred"):
        make_learner(cbs=Theirs()).fit(1)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("on_train_epoch_end", lambda self: None, "here it is after_train, or after_epoch"),
        ("order", 10, "here it is phase, such as phase = Phase.RECORD"),
        ("run_after", Recorder, "here it is phase, such as phase = Phase.RECORD"),
        ("run", property(lambda self: False), "decorate an event with @when"),
        ("run_valid", False, "ask self.state.training in the event"),
        ("begin_fit", lambda self: None, "here it is before_fit"),
    ],
)
def test_what_nothing_would_read_of_a_callback_is_refused_when_it_is_attached(name: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=f"Theirs.{name} is read by nothing; {said}"):
        make_learner(cbs=type("Theirs", (Callback,), {name: value})())


def test_a_property_that_fails_says_so_itself() -> None:
    class Broken:
        __getattr__ = missing_attribute

        @property
        def value(self) -> int:
            return self.nothing  # type: ignore[attr-defined]  # wrong on purpose

    with pytest.raises(AttributeError, match="'Broken' object has no attribute 'nothing'"):
        _ = Broken().value


def test_what_is_decorated_keeps_its_name_and_signature() -> None:
    def plain(n: int, *, rate: float = 0.1) -> float:
        """Multiplies."""
        return n * rate

    checked = known_arguments()(plain)
    assert (checked.__name__, checked.__doc__) == ("plain", "Multiplies.")
    assert inspect.signature(checked) == inspect.signature(plain)
    assert checked(2, rate=0.5) == 1.0


def rows() -> Iterator[tuple[str, str]]:
    return ((place, name) for place, words in OTHER_WORDS.items() for name in words)


CLASSES = (
    BaseLoader,
    Callback,
    ClassificationInterpretation,
    DataLoaders,
    Datasets,
    Interpretation,
    LRFinding,
    Learner,
    Optimizer,
    Recorder,
    TfmdLists,
    TrainState,
)
OPTIONS = {"LearnerOptions": LearnerOptions, "LoaderOptions": LoaderOptions, "ImageOptions": ImageOptions}


def test_each_row_is_of_a_place_that_asks_for_it_and_does_not_have_the_name() -> None:
    functions = {place_of(function): set(inspect.signature(function).parameters) for function, _ in ARGUMENTS}
    for other in (Interpretation.from_learner, DataBlock.dataloaders):
        functions[other.__qualname__] = set(inspect.signature(other).parameters)
    has: dict[str, set[str]] = {
        **functions,
        **{name: set(options.__annotations__) for name, options in OPTIONS.items()},
        **{
            each.__name__: set(dir(each))
            for each in (*CLASSES, importlib.import_module("dist_ai.callbacks").ActivationStats)
        },
        **{f"dist_ai.{room}": set(vars(importlib.import_module(f"dist_ai.{room}"))) for room in (*ROOMS, *OTHER_ROOMS)},
        "dist_ai": set(vars(importlib.import_module("dist_ai"))),
        **{place: set(dir(Callback)) for place in ("a callback defines", "a callback sets")},
    }
    assert set(OTHER_WORDS) <= has.keys()
    assert [each.__name__ for each in CLASSES if not hasattr(each, "__getattr__")] == []
    assert [(place, name) for place, name in rows() if name in has[place]] == []
