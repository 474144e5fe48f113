"""What holds on a GPU only, or only there can go wrong: no step waits for it, streams do not overtake each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from toy import make_model, weights_of

from dist_ai.callbacks import EMA, Callback, ChannelsLast, Checkpointer, GradientClip, MixUp, Throughput, on
from dist_ai.core import Draw, Pipeline, Transform
from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import DataLoader, DataLoaders, TensorData, sample_data
from dist_ai.distributed.collectives import _connect
from dist_ai.distributed.environment import World
from dist_ai.distributed.sharded import whole
from dist_ai.distributed.strategies.ddp import DDPStrategy
from dist_ai.distributed.strategies.fsdp import FSDPStrategy
from dist_ai.distributed.strategies.single import Single
from dist_ai.export import Predictor
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.metrics import accuracy
from dist_ai.optimizer import Adam
from dist_ai.vision import (
    GaussianBlur,
    GaussianNoise,
    ImageDataLoaders,
    ImageToFloat,
    Normalize,
    RandomErasing,
    RandomResizedCropGPU,
    Resize,
    Saturation,
    aug_transforms,
    rand_augment,
    trivial_augment,
    vision_learner,
)

pytestmark = pytest.mark.gpu

NUM_SAMPLES, BS = 256, 8


def pictures() -> TensorImage:
    """Returns small images of bytes, smooth enough that to interpolate them differently is seen as such."""
    small = torch.rand(NUM_SAMPLES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return TensorImage(nn.functional.interpolate(small, 24, mode="bilinear").mul(255).byte())


def augmentation() -> list[Any]:
    return [ImageToFloat(), *aug_transforms(size=20), Saturation(), RandomErasing(), Normalize([0.5] * 3, [0.3] * 3)]


def image_learner(**options: Any) -> Learner:
    """Returns a Learner of a small convolutional network on augmented images."""
    x = pictures()
    y = TensorCategory(x[:, :, 0, 0].float().argmax(1), vocab=list("rgb"))
    train = DataLoader(TensorData(x, y), BS, shuffle=True, seed=1, split_idx=0, batch_tfms=augmentation())
    valid = DataLoader(TensorData(x[:32], y[:32]), BS, batch_tfms=augmentation())
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )
    defaults: dict[str, Any] = {"opt_func": Adam, "lr": 1e-2, "run_dir": None, "progress": False}
    return Learner(DataLoaders(train, valid), model, CrossEntropyLoss(), **{**defaults, **options})


class Forbid(Callback):
    """From the third step of an epoch to the last but two, whatever makes the host wait for the device is an error.

    Not in the first epoch, in which the recorder reads losses early, and so waits now and then.
    """

    may_cancel = False

    def __init__(self) -> None:
        self.num_steps = 0

    def after_batch(self) -> None:
        """Begins, goes on, ends."""
        if self.state.training:
            watched = self.state.epoch > 0 and 2 <= self.state.step < NUM_SAMPLES // BS - 3
            torch.cuda.set_sync_debug_mode("error" if watched else "default")
            self.num_steps += watched

    def after_fit(self) -> None:
        """Ends, also after an error."""
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize(
    "cbs", [[], [GradientClip(1.0), ChannelsLast(), EMA(), MixUp(), Throughput()]], ids=["bare", "many"]
)
def test_no_step_waits_for_the_device(precision: Any, cbs: list[Callback]) -> None:
    forbid = Forbid()
    image_learner(precision=precision, cbs=[*cbs, forbid], progress=True).fit_one_cycle(3, 1e-2)
    assert forbid.num_steps > 40


@pytest.mark.parametrize(
    "tfms",
    [
        augmentation(),
        [ImageToFloat(), RandomResizedCropGPU(16), GaussianBlur(), GaussianNoise()],
        [ImageToFloat(), *rand_augment()],
        [ImageToFloat(), *trivial_augment()],
    ],
    ids=["aug_transforms", "crop, blur and noise", "rand_augment", "trivial_augment"],
)
def test_augmented_images_are_those_of_a_cpu(tfms: list[Transform]) -> None:
    def augmented(x: TensorImage) -> torch.Tensor:
        draw = Draw(seed=1, epoch=0, samples=range(64)).at("batch_tfms")
        return Pipeline(tfms)(x, draw, split_idx=0).as_subclass(torch.Tensor).cpu()

    x: Any = pictures()[:64]
    here, there = augmented(x), augmented(x.cuda())
    differences = (here - there).abs()
    # A pixel on a border between two neighbours, or between two levels, may fall to either side.
    assert differences.mean() < 1e-4
    assert (differences > 1e-3).float().mean() < 2e-3


class Slow(Transform):
    """Keeps the stream that prepares batches behind, and makes of each a batch that says which samples it has."""

    def encodes(self, x: torch.Tensor) -> Any:
        """Returns ten times the numbers, late."""
        busy = torch.ones(1024, 1024, device=x.device)
        for _ in range(20):
            busy = busy @ busy / 1024
        return x * 10 + busy[0, 0] - 1


def test_a_batch_that_is_prepared_beside_the_training_is_whole_when_the_model_sees_it() -> None:
    numbers = torch.arange(2048.0)[:, None].repeat(1, 1000)
    loader = DataLoader(TensorData(numbers), 32, shuffle=True, seed=1, batch_tfms=[Slow()], device="cuda")
    least, most = [], []
    for (batch,) in loader:
        least.append(batch.amin(1))
        most.append(batch.amax(1))
        torch.empty(32, 1000, device="cuda").fill_(-1.0)  # takes memory that a batch gave back too early
    for seen in (least, most):
        assert torch.equal(torch.cat(seen).sort().values.cpu(), numbers[:, 0] * 10)


def test_workers_pin_batches_and_the_device_gets_them() -> None:
    x = pictures()
    loader = DataLoader([(x[i], i) for i in range(NUM_SAMPLES)], BS, num_workers=2, device="cuda")
    batches = list(loader)
    assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
    assert torch.equal(
        torch.cat([images for images, _ in batches]).cpu().as_subclass(torch.Tensor), x.as_subclass(torch.Tensor)
    )


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.filterwarnings("ignore:.*deterministic")  # of operations that torch has no such algorithm for
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_fit_that_is_resumed_ends_as_one_that_was_not_disturbed(
    tmp_path: Path, precision: Any, deterministic: None
) -> None:
    def program(run_dir: Path, *cbs: Any) -> torch.Tensor:
        learn = image_learner(precision=precision, run_dir=run_dir, cbs=[Checkpointer(every_steps=10), EMA(), *cbs])
        learn.model.add_module("6", nn.Dropout(0.2))  # draws from the device's generator
        torch.cuda.manual_seed(3)
        learn.fit(2)
        weights = weights_of(learn.model)
        learn.close()
        return weights

    undisturbed = program(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        program(tmp_path / "stopped", on("after_batch", interrupt))
    assert torch.equal(program(tmp_path / "stopped"), undisturbed)


def interrupt(learn: Any) -> None:
    """Stops the program in the second epoch."""
    if learn.state.training and learn.state.epoch == 1 and learn.state.step == 9:
        raise KeyboardInterrupt


def test_the_four_lines_and_what_users_do_next(tmp_path: Path) -> None:
    dls = ImageDataLoaders.from_folder(
        sample_data("fashion_mnist") / "test", valid_pct=0.2, item_tfms=Resize(32), batch_tfms=aug_transforms(), bs=32,
        num_workers=2,
    )  # fmt: skip
    learn = vision_learner(
        dls, "resnet18", pretrained=False, metrics=accuracy, run_dir=tmp_path / "run", precision="bf16"
    )
    assert learn.lr_find(num_it=20).valley > 0
    learn.fine_tune(1)
    preds, targets = learn.get_preds()
    assert not preds.is_cuda
    assert not targets.is_cuda
    again, _ = learn.tta(n=2)
    assert again.shape == preds.shape
    data: Any = learn.dls.valid.dataset  # type: ignore[union-attr]  # there is a part for validation
    file = data.item(0)
    learn.show_results(4)
    kept = learn.export(tmp_path / "export")
    learn.close()
    answers = [Predictor(kept, device=device).predict(file) for device in ("cuda", "cpu")]
    assert answers[0].label == answers[1].label
    for answer in answers:
        assert torch.allclose(torch.as_tensor(answer.output).cpu(), preds[0], atol=0.05)


def gradients_of_each_strategy(folder: str) -> dict[str, Any]:
    """Returns what comes of a step by each strategy in a group of one rank: a Learner alone would make none."""
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    ranks = _connect(World(store=f"file://{folder}/store", device=device))
    x = torch.arange(12.0, dtype=torch.float64, device=device).sin().view(3, 4)
    found: dict[str, Any] = {"device": str(device), "backend": dist.get_backend_config()}
    for strategy in (Single(ranks), DDPStrategy(ranks), FSDPStrategy(ranks)):
        model = make_model(torch.float64, batch_norm=True)
        strategy.prepare(model, device)
        module = strategy.wrap(model)
        model.train()
        strategy.begin_batch(num_local=len(x))
        module(x).square().mean().backward()
        strategy.exchange_gradients(model)
        grads = [whole(p.grad).flatten() for p in model.parameters() if p.grad is not None]
        found[type(strategy).__name__] = torch.cat(grads).tolist()
        found["total"] = strategy.begin_total(torch.ones(2, device=device))().tolist()
        strategy.unwrap()
    return found


def test_each_strategy_has_the_same_gradients_under_nccl(spawn: Any, tmp_path: Path) -> None:
    [rank] = spawn(1, gradients_of_each_strategy, folder=str(tmp_path))
    assert rank["device"] == "cuda:0"
    assert "cuda:nccl" in rank["backend"]
    assert rank["total"] == [1.0, 1.0]
    assert rank["DDPStrategy"] == pytest.approx(rank["Single"])
    assert rank["FSDPStrategy"] == pytest.approx(rank["Single"])


def test_speed_and_memory_are_measured() -> None:
    throughput = Throughput()
    learn = image_learner(precision="bf16", cbs=throughput)
    learn.fit(2)
    assert throughput.peak is None or throughput.peak > 1e13
    assert all(speed.samples_per_s > 0 for speed in throughput.speeds)
