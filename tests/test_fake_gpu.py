"""On a GPU nothing mixes devices, and no step waits for the device, but where it must; seen on a fake one (`fake_gpu.py`).

What waits by its nature is listed where it is allowed, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pandas as pd
import pytest
import torch
from fake_gpu import FakeGPU, with_numbers
from series import SMALL as SMALL_SERIES
from series import labelled, uneven, waves
from tables import people_learner
from texts import classifier, language_model, loaders
from torch import nn

from dist_ai import callbacks, losses, metrics, optimizer
from dist_ai.callbacks import Callback
from dist_ai.collab import CollabDataLoaders, collab_learner
from dist_ai.core import Draw, Pipeline
from dist_ai.core.nested import tensors_in
from dist_ai.core.types import TabularRow, TensorSeries
from dist_ai.core.vision_types import TensorBBox, TensorImage, TensorMask, TensorPoint
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.data.device import to_device
from dist_ai.data.fetcher import Fetcher
from dist_ai.distributed.strategies.sync_batch_norm import SyncBatchNorm
from dist_ai.layers.dropout import seed_dropout, seeded_layers
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss, sample_losses
from dist_ai.tabular.models import FTTransformer, TabularModel, TabularResNet
from dist_ai.text.models import LanguageModel, TextClassifier
from dist_ai.text.transformer import Transformer
from dist_ai.timeseries import TSDataLoaders, TSForecastDataLoaders, architectures, forecasters, ts_learner
from dist_ai.timeseries import augment as series_augment
from dist_ai.timeseries.models import forecast_model, series_model
from dist_ai.vision import Normalize, augment
from dist_ai.vision.models import gan, unet, vision_model
from dist_ai.vision.transforms import ImageToFloat

NUM, BS = 20, 4
READS_LOSSES = "distributed/collectives.py:SoloCollectives.all_reduce: copies to the host"
"""The recorder reads the losses of many steps at once."""


def ones(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype, device="cuda")


def integers(*shape: int) -> torch.Tensor:
    return ones(*shape, dtype=torch.int64)


# ------------------------------------------------------------------------------------------------ the fake itself


def test_the_fake_tells_what_a_gpu_would_do() -> None:
    def waits(action: Callable[[torch.Tensor], Any]) -> list[str]:
        gpu.waits.clear()
        action(ones(4, 4))
        return gpu.waits

    reads, to_device = ["elsewhere: reads a number"], ["elsewhere: copies to the device"]
    with FakeGPU() as gpu:
        assert waits(lambda x: x.sum().item()) == waits(lambda x: bool(x.any())) == reads
        assert waits(lambda x: x[[0, 1]]) == waits(lambda x: x[torch.tensor([0, 1])]) == to_device
        assert waits(lambda x: x.new_tensor([1.0])) == waits(lambda x: torch.zeros(4).to(x.device)) == to_device
        assert waits(lambda x: x.cpu()) == ["elsewhere: copies to the host"]
        assert waits(lambda x: x.to("cpu", non_blocking=True)) == ["elsewhere: copies to the host and reads too early"]
        assert waits(lambda x: [x * 2, x[0] + torch.tensor(3.0).item(), torch.where(x > 0, x, 0.0)]) == []
        assert waits(lambda x: torch.zeros(4).to(x.device, non_blocking=True)) == []
        assert gpu.copies == to_device
        with pytest.raises(RuntimeError, match=r"two different devices|at least two devices"):
            ones(4) + torch.ones(4)
        with pytest.raises(RuntimeError, match="nonzero"):
            ones(4)[ones(4) > 0]


# ------------------------------------------------------------------------------------------------ transforms


def pictures() -> tuple[Any, ...]:
    """Returns images of bytes, masks, points and boxes."""
    side = 16
    return (
        TensorImage(ones(BS, 3, side, side, dtype=torch.uint8)),
        TensorMask(ones(BS, side, side, dtype=torch.uint8)),
        TensorPoint(ones(BS, 4, 2), canvas_size=(side, side)),
        TensorBBox(ones(BS, 5, 4), canvas_size=(side, side), format="XYXY"),
    )


# Of each row of transforms, how many small copies carry its draws to the device: for an image, its mask, points and boxes.
MOVES = 4
PICTURES: dict[str, tuple[list[Any], int]] = {
    "aug_transforms": (augment.aug_transforms(size=12), MOVES + 1),
    "cut out": (augment.aug_transforms(flip_vert=True, size=(12, 10), min_scale=0.5), MOVES + 1),
    "rand_augment": (augment.rand_augment(n=4), MOVES + 1 + 2),
    "trivial_augment": (augment.trivial_augment(), MOVES + 1 + 2),
    "normalised": ([augment.Hue(), augment.Saturation(), Normalize([0.5] * 3, [0.2] * 3)], 2),
    "mirrored": ([augment.Dihedral()], MOVES),
    "leaning": ([augment.Shear(), augment.Translate()], MOVES),
    "erased": ([augment.RandomErasing(max_count=3)], 2 + 2),
    "blurred": ([augment.GaussianBlur()], 2),
    "noisy": ([augment.GaussianNoise()], 2 + 2),
    "solarised": ([augment.Solarize(), augment.Posterize()], 2),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_pictures_are_transformed_without_a_wait_and_with_few_copies(kind: str) -> None:
    tfms, most = PICTURES[kind]
    with FakeGPU() as gpu:
        draw = Draw(seed=1, epoch=0, samples=range(BS))
        for split, drawn in ((0, draw.at("batch_tfms")), (1, None)):
            gpu.copies.clear()
            batch = Pipeline([ImageToFloat(), *tfms])(pictures(), drawn, split_idx=split)
            assert all(each.is_cuda for each in batch)
            assert gpu.waits == []
            assert len(gpu.copies) <= most


@pytest.mark.parametrize("name", sorted(set(series_augment.__all__) - {"SeriesEffect", "ts_tfms"}))
def test_series_are_transformed_without_a_wait_and_with_few_copies(name: str) -> None:
    with FakeGPU() as gpu:
        draw = Draw(seed=1, epoch=0, samples=range(BS))
        Pipeline([getattr(series_augment, name)()])(TensorSeries(ones(BS, 3, 32)), draw, split_idx=0)
        assert gpu.waits == []
        assert len(gpu.copies) <= 3


# ------------------------------------------------------------------------------------------------ losses, metrics


LOSSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "cross-entropy": (CrossEntropyLoss, (BS, 5), (BS,)),
    "smoothed": (lambda: CrossEntropyLoss(label_smoothing=0.1, ignore_index=3), (BS, 5), (BS,)),
    "weighted": (lambda: CrossEntropyLoss(weight=[1.0] * 5), (BS, 5), (BS,)),
    "of tokens": (lambda: CrossEntropyLoss(axis=-1), (BS, 7, 5), (BS, 7)),
    "focal": (lambda: losses.FocalLoss(weight=[1.0] * 5, ignore_index=0), (BS, 5, 3, 3), (BS, 3, 3)),
    "dice": (lambda: losses.DiceLoss(ignore_index=0), (BS, 5, 3, 3), (BS, 3, 3)),
    "focal and dice": (lambda: losses.FocalDiceLoss(ignore_index=0), (BS, 5, 3, 3), (BS, 3, 3)),
    "labels": (lambda: losses.BCEWithLogitsLoss(pos_weight=2.0), (BS, 5), (BS, 5)),
    "labels, focal": (lambda: losses.BinaryFocalLoss(alpha=0.5), (BS, 5), (BS, 5)),
    "mse": (losses.MSELoss, (BS, 1), (BS,)),
    "l1": (losses.L1Loss, (BS, 1), (BS,)),
    "huber": (losses.HuberLoss, (BS, 1), (BS,)),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_a_loss_is_computed_activated_and_decoded_without_a_wait(kind: str) -> None:
    make, of_pred, of_target = LOSSES[kind]
    loss = make()
    with FakeGPU() as gpu:
        loss.to("cuda")
        gpu.waits.clear()
        pred, target = ones(*of_pred).requires_grad_(), integers(*of_target)
        loss(pred, target).backward()
        sample_losses(loss, pred, target)
        losses.activation(loss, pred)
        losses.decodes(loss, pred)
        assert gpu.waits == []


METRICS = [
    metrics.accuracy, metrics.error_rate, metrics.top_k_accuracy, metrics.BalancedAccuracy(), metrics.BrierScore(),
    metrics.F1Score(average="macro"), metrics.MatthewsCorrCoef(), metrics.CohenKappa(),
]  # fmt: skip


def test_metrics_take_in_batches_without_a_wait() -> None:
    with FakeGPU() as gpu:
        for metric in metrics.as_metrics(METRICS):
            metric.reset()
            for _ in range(2):
                metric.update(ones(BS, 5), integers(BS), BS)
        assert gpu.waits == []


# ------------------------------------------------------------------------------------------------ training


class Watch(Callback):
    """Keeps what was waited for in an epoch's steps but the first, in which much is met for the first time."""

    may_cancel = False

    def __init__(self, gpu: FakeGPU) -> None:
        self.gpu, self.waits = gpu, set[str]()

    def after_batch(self) -> None:
        if self.state.training and self.state.step == 0:
            self.gpu.waits.clear()
            self.gpu.copies.clear()

    def after_train(self) -> None:
        self.waits |= set(self.gpu.waits) - {READS_LOSSES}


def waits_of(gpu: FakeGPU, learn: Learner) -> set[str]:
    """Returns where steps of training wait."""
    watch = Watch(gpu)
    learn.fit(1, cbs=watch)
    return watch.waits


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    )


def image_learner(*, on_device: bool = False, loss: Any = None, **options: Any) -> Learner:
    x, y = torch.ones(NUM, 3, 8, 8), torch.ones(NUM, dtype=torch.int64)
    if on_device:
        x, y = x.to("cuda"), y.to("cuda")
    train = DataLoader(TensorData(x, y), BS, shuffle=True, seed=1, split_idx=0, device="cuda")
    valid = DataLoader(TensorData(x, y), BS, device="cuda")
    given = {"run_dir": None, "progress": False, **options}
    return Learner(DataLoaders(train, valid), network(), loss or CrossEntropyLoss(), **given)


@pytest.mark.parametrize("on_device", [False, True], ids=["data on the host", "data on the device"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_step_waits_for_nothing_but_fp16s_flag(precision: Any, on_device: bool) -> None:
    expected = (
        {"distributed/strategies/precision.py:_Float16.unscale: reads a number"} if precision == "fp16" else set()
    )
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(precision=precision, on_device=on_device)) == expected


OPTIMIZERS = [name for name in optimizer.__all__ if hasattr(optimizer.recipes, name) and name[0].isupper()]


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - {"Either", "Lookahead", "Optimizer"}))
def test_an_optimizer_steps_without_a_wait(name: str) -> None:
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(opt_func=getattr(optimizer, name))) == set()


@pytest.mark.parametrize(
    "opt_func",
    [torch.optim.AdamW, partial(torch.optim.AdamW, fused=True), partial(torch.optim.SGD, momentum=0.9, foreach=True)],
    ids=["AdamW", "fused AdamW", "foreach SGD"],
)
def test_torchs_optimizers_step_without_a_wait(opt_func: Any) -> None:
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(opt_func=opt_func)) == set()


CALLBACKS: dict[str, Callable[[], Iterable[Callback]]] = {
    "activation statistics": lambda: [callbacks.ActivationStats(every=1)],
    "parameter statistics": lambda: [callbacks.ParameterStats(every=1)],
    "average": lambda: [callbacks.EMA()],
    "clipping": lambda: [callbacks.GradientClip(1.0)],
    "clipping by the largest": lambda: [callbacks.GradientClip(1.0, norm_type=float("inf"))],
    "clipping by value": lambda: [callbacks.GradientClip(max_value=1.0)],
    "CutMix": lambda: [callbacks.CutMix()],
    "MixUp": lambda: [callbacks.MixUp()],
    "accumulation": lambda: [callbacks.GradientAccumulation(2 * BS)],
    "small parts": lambda: [callbacks.AutoMicrobatch(2)],
    "channels last": lambda: [callbacks.ChannelsLast()],
    "an end at NaN": lambda: [callbacks.TerminateOnNaN()],
    "speed and memory": lambda: [callbacks.Throughput(), callbacks.MemoryMonitor()],
    "progress": lambda: [callbacks.ProgressBar()],
}


@pytest.mark.parametrize("kind", CALLBACKS)
def test_a_callback_lets_no_step_wait(kind: str) -> None:
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(cbs=CALLBACKS[kind]())) == set()


WAITING_CALLBACKS = {
    "SkipNaN": "callbacks/not_finite.py:_all_finite: reads a number",  # whether to take the step must be known before it
    "CollectData": "callbacks/collect.py:CollectData.after_batch.<locals>.<lambda>: copies to the host",  # that is its use
}


@pytest.mark.parametrize("name", WAITING_CALLBACKS)
def test_callbacks_that_must_wait_do_so_there_alone(name: str) -> None:
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(cbs=getattr(callbacks, name)())) == {WAITING_CALLBACKS[name]}


@pytest.mark.parametrize("loss", [CrossEntropyLoss(ignore_index=3), nn.functional.cross_entropy, nn.CrossEntropyLoss()])
@pytest.mark.parametrize("cbs", [[], [callbacks.GradientAccumulation(2 * BS)]], ids=["steps", "accumulated steps"])
def test_what_targets_weigh_is_found_without_a_wait(loss: Any, cbs: list[Callback]) -> None:
    with FakeGPU() as gpu:
        assert waits_of(gpu, image_learner(loss=loss, cbs=cbs)) == set()


def test_batch_norms_statistics_are_renewed_for_an_average_without_a_wait() -> None:
    with FakeGPU() as gpu:
        learn = image_learner(cbs=callbacks.SWA(start=0.0))
        learn.fit(1)
        assert "distributed/strategies/precision.py:_Full.forward: reads a number" not in gpu.waits
        norm = SyncBatchNorm(nn.BatchNorm2d(3, momentum=None).to("cuda"), share=None)  # type: ignore[arg-type]  # not asked
        gpu.waits.clear()
        norm._track(ones(3), ones(3), ones())
        assert gpu.waits == []


# ------------------------------------------------------------------------------------------------ models


SMALL_MODELS: dict[str, dict[str, Any]] = {
    "MiniRocket": {"num_features": 168},
    "TST": {"width": 8, "heads": 2, "hidden": 8, "layers": 2},
    "PatchTST": {"width": 8, "heads": 2, "hidden": 8, "layers": 1, "patch": 4, "stride": 4},
    "InceptionTime": {"filters": 4},
}
SMALL_FORECASTER = {"width": 8, "heads": 2, "hidden": 8, "layers": 1}
GAN = {"size": 8, "channels": 1, "noise": 4, "width": 8}


def rows() -> TabularRow:
    return TabularRow(integers(BS, 2), ones(BS, 3))


def rocket() -> nn.Module:
    model = series_model("MiniRocket", 3, 24, 5, **SMALL_MODELS["MiniRocket"])
    model.body.fitted.fill_(True)  # type: ignore[operator,union-attr]  # a tensor
    return model


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]]]] = {
    **{
        f"series: {arch}{', padded' * padded}": (
            partial(series_model, arch, 3, 24, 5, padded=padded, **SMALL_MODELS.get(arch, {})),
            lambda: (ones(BS, 3, 24),),
        )
        for arch in architectures
        for padded in (False, True)
        if arch != "MiniRocket"
    },
    "series: MiniRocket": (rocket, lambda: (ones(BS, 3, 24),)),
    **{
        f"forecasts: {arch}, {normalize}": (
            partial(
                forecast_model,
                arch,
                3,
                30,
                7,
                [2, 0],
                2,
                normalize=normalize,
                **(SMALL_FORECASTER if arch == "PatchTST" else {}),
            ),
            lambda: (ones(BS, 3, 30), ones(BS, 2, 7)),
        )
        for arch in forecasters
        for normalize in ("window", "last")
    },
    "text: LSTM": (lambda: language_model_of("awd"), lambda: (integers(BS, 9),)),
    "text: transformer": (lambda: language_model_of("gpt"), lambda: (integers(BS, 9),)),
    "text: a class, by an LSTM": (lambda: text_classifier_of("awd"), lambda: (integers(BS, 9),)),
    "text: a class, by a transformer": (lambda: text_classifier_of("gpt"), lambda: (integers(BS, 9),)),
    "table: layers": (lambda: TabularModel([(5, 3), (7, 4)], 3, 2, [6]), lambda: (rows(),)),
    "table: residual": (lambda: TabularResNet([(5, 3), (7, 4)], 3, 2), lambda: (rows(),)),
    "table: transformer": (lambda: FTTransformer([(5, 3), (7, 4)], 3, 2), lambda: (rows(),)),
    "image: a class": (lambda: vision_model("small_cnn", 3), lambda: (ones(BS, 3, 32, 32),)),
    "image: XResNet": (lambda: vision_model("xresnet18", 3), lambda: (ones(BS, 3, 32, 32),)),
    "image: U-Net": (
        lambda: unet("small_cnn", 2, n_in=1, self_attention=True, blur=True, bottle=True, y_range=(0, 1)),
        lambda: (ones(BS, 1, 24, 40),),
    ),
    "image: generator": (lambda: gan(**GAN).generator, lambda: (ones(BS, 4),)),
    "image: critic": (lambda: gan(**GAN).critic, lambda: (ones(BS, 1, 8, 8),)),
}


def encoder_of(kind: str) -> nn.Module:
    from dist_ai.text import AWD_LSTM

    if kind == "awd":
        return AWD_LSTM(30, emb_sz=12, n_hid=16, n_layers=2)
    return Transformer(30, emb_sz=16, n_heads=2, n_layers=2)


def language_model_of(kind: str) -> nn.Module:
    return LanguageModel(encoder_of(kind), 30)


def text_classifier_of(kind: str) -> nn.Module:
    return TextClassifier(encoder_of(kind), 3, bptt=4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_computes_in_bf16_and_back_without_a_wait(kind: str) -> None:
    make, inputs = MODELS[kind]
    model = make()
    with FakeGPU() as gpu:
        model.to("cuda")
        seed_dropout(seeded_layers(model), integers(BS), integers())
        with torch.autocast("cuda", torch.bfloat16):
            model(*inputs())  # a first time, in which MiniRocket asks whether it is fitted
            gpu.waits.clear()
            out = model(*inputs())
        torch.stack([each.float().sum() for each in tensors_in(out) if each.requires_grad]).sum().backward()
        assert gpu.waits == []
        assert gpu.copies == []
        assert all(each.is_cuda for each in tensors_in(out))


def test_texts_that_are_longer_than_what_is_pooled_are_waited_for() -> None:
    # Which of their tokens need no gradient depends on how long they are: one number a batch saves most of its memory.
    model = TextClassifier(encoder_of("awd"), 3, bptt=4, max_len=6)
    with FakeGPU() as gpu:
        model.to("cuda")
        gpu.waits.clear()
        model(integers(BS, 9))
        assert gpu.waits == ["text/models.py:TextClassifier._read: reads a number"]


# ------------------------------------------------------------------------------------------------ applications


def choices() -> Any:
    frame = pd.DataFrame({"user": [f"u{i % 9}" for i in range(60)], "item": [f"i{i % 7}" for i in range(60)]})
    return CollabDataLoaders.from_df(frame, negatives=3, valid_negatives=5, bs=8, num_workers=0)


def series(X: Any, y: Any) -> Any:
    return TSDataLoaders.from_arrays(X, y, bs=8, num_workers=0, pad=True, batch_tfms=series_augment.ts_tfms())


QUIET: dict[str, Any] = {"run_dir": None, "progress": False}
SERIES_LEARNER = partial(ts_learner, arch="FCN", config=SMALL_SERIES["FCN"], **QUIET)
# Made on the host: what is drawn until it fits, as first weights are, is never found among tensors without numbers.
APPLICATIONS: dict[str, Callable[[], Learner]] = {
    "table": people_learner,
    "choices": lambda: collab_learner(choices(), 4, **QUIET),
    "text": classifier,
    "language": lambda: language_model(loaders(is_lm=True, bs=4, seq_len=16)),
    "series": lambda: SERIES_LEARNER(series(*labelled())),
    "padded series": lambda: SERIES_LEARNER(series(*uneven())),
    "forecasts": lambda: ts_learner(
        TSForecastDataLoaders.from_arrays(waves(), context=12, horizon=4, bs=16, num_workers=0), "NLinear", **QUIET
    ),
}


@pytest.mark.parametrize("kind", APPLICATIONS)
def test_an_application_trains_without_a_wait(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fetcher, "load", with_numbers(Fetcher.load))
    learn = APPLICATIONS[kind]()
    with FakeGPU() as gpu:
        learn.dls.to("cuda")
        learn.model.to("cuda")
        assert waits_of(gpu, learn) == set()


def test_what_comes_back_to_the_host_is_waited_for() -> None:
    with FakeGPU() as gpu:
        assert not to_device((ones(3),), torch.device("cpu"))[0].is_cuda
        assert gpu.waits == ["data/device.py:to_device.<locals>.<lambda>: copies to the host"]


def test_dropout_in_validation_draws_without_a_wait() -> None:
    with FakeGPU() as gpu:
        image_learner(cbs=callbacks.MCDropout()).validate()
        assert not [wait for wait in gpu.waits if "dropout" in wait]


def test_predictions_are_on_the_host_and_losses_found_a_learning_rate() -> None:
    with FakeGPU():
        learn = image_learner()
        for each in (*learn.get_preds(), *learn.tta(n=2)):
            assert each.device.type == "cpu"
        learn.lr_find(num_it=4)
