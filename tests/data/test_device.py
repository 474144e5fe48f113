"""The device stage: a batch goes to its device, and is transformed there with draws of its samples."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.data.device import DeviceStage, to_device
from dist_ai.data.fetcher import Fetched
from dist_ai.data.plan import EpochPlan


class Sample(NamedTuple):
    x: Any
    y: Any


@dataclass
class AddNoise(Transform):
    def encodes(self, x: TensorImage, draw: Draw | None):
        if draw is None:
            return x
        return x + torch.from_numpy(np.asarray(draw.uniform())).view(-1, 1)


def test_everything_in_a_batch_moves_and_the_rest_stays():
    batch = {"a": [torch.zeros(1), (torch.zeros(1), "text")], "b": Sample(TensorCategory([1], vocab="ab"), None)}
    moved = to_device(batch, torch.device("meta"))
    assert isinstance(moved, Mapping)
    assert type(moved["a"]) is list
    assert moved["a"][0].is_meta
    assert moved["a"][1][0].is_meta
    assert moved["a"][1][1] == "text"
    assert type(moved["b"]) is Sample
    assert (type(moved["b"].x), moved["b"].x.vocab, moved["b"].x.is_meta) == (TensorCategory, "ab", True)


def test_what_is_there_already_is_not_copied():
    tensor = torch.zeros(1)
    assert to_device((tensor,), torch.device("cpu"))[0] is tensor


def test_batch_transforms_draw_for_each_sample_wherever_it_stands():
    stage = DeviceStage(torch.device("cpu"), [AddNoise()], seed=7)
    draws = {}
    for world_size in (1, 2, 3):
        seen = {}
        for rank in range(world_size):
            for share in EpochPlan(num_samples=11, batch_size=4, shuffle=True, world_size=world_size, rank=rank):
                noise = stage(TensorImage(torch.zeros(len(share.indices), 1)), share)
                seen |= dict(zip(share.indices.tolist(), noise.flatten().tolist(), strict=True))
        draws[world_size] = seen
    assert draws[1].keys() == set(range(11))
    assert draws[1] == draws[2] == draws[3]
    assert len(set(draws[1].values())) == 11


@dataclass
class TenMore(Transform):
    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: TensorImage):
        return x + 10


def test_outside_training_nothing_is_drawn_and_training_transforms_do_not_run():
    share = EpochPlan(num_samples=2, batch_size=2).share(0)
    stage = DeviceStage(torch.device("cpu"), [AddNoise(), TenMore()], split_idx=1)
    assert stage(TensorImage(torch.zeros(2, 1)), share).tolist() == [[0], [0]]
    assert (DeviceStage(torch.device("cpu"), [AddNoise(), TenMore()])(TensorImage(torch.zeros(2, 1)), share) > 10).all()


@dataclass(frozen=True)
class Text:
    tokens: torch.Tensor
    length: int


def test_a_batch_may_be_a_dataclass():
    moved = to_device(Text(torch.zeros(2), 2), torch.device("meta"))
    assert (type(moved), moved.tokens.is_meta, moved.length) == (Text, True, 2)


def test_batches_of_all_kinds_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    batch = (Text(torch.zeros(2), 2), {"a": [torch.zeros(1)]}, Sample(TensorCategory([1], vocab="ab"), None))
    again = pin_memory(Fetched(batch, skipped=("one",)))
    assert (len(pinned), type(again), again.skipped) == (3, Fetched, ("one",))
    assert (type(again.batch[0]), again.batch[2].x.vocab) == (Text, "ab")


def test_a_batch_begins_its_way_to_the_device_before_its_stream_waits_for_the_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            done.append(f"{self.name} waits")

    streams = SimpleNamespace(
        Stream=lambda: Stream("side"),
        current_stream=lambda _: Stream("main"),
        stream=lambda _: contextlib.nullcontext(),
    )
    monkeypatch.setattr(torch, "get_device_module", lambda _: streams)
    monkeypatch.setattr("dist_ai.data.device.to_device", lambda batch, _: done.append("moves") or batch)
    stage = DeviceStage(torch.device("cpu"))
    share = EpochPlan(num_samples=2, batch_size=2).share(0)
    assert [x.item() for _, x in stage.ahead(iter([(share, torch.tensor(7.0))]))] == [7.0]
    # Behind the training, a copy from memory that is not pinned would make the host wait for the step under way.
    assert done == ["moves", "side waits", "moves", "main waits"]


def test_one_batch_ahead_gives_the_same_batches_in_the_same_order():
    stage = DeviceStage(torch.device("cpu"), [AddNoise()], seed=7)
    plan = EpochPlan(num_samples=7, batch_size=2, shuffle=True)
    asked: list[int] = []

    def batches():
        for share in plan:
            asked.append(share.step)
            yield share, TensorImage(torch.zeros(len(share.indices), 1))

    plain = [(share.step, x.tolist()) for share, x in stage.run(batches())]
    asked.clear()
    ahead = stage.ahead(batches())
    seen = []
    for share, x in ahead:
        seen.append((share.step, x.tolist()))
        assert asked == list(range(min(share.step + 2, 4)))
    assert seen == plain
    assert list(stage.ahead(iter(()))) == []
