"""Loaders: the same values for any number of ranks and workers, and one clear error where there is one."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import re
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import Subset as TorchSubset

import dist_ai.data.loader as loader_module
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.core.types import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.data import Categorize, DataLoader, DataLoaders, Datasets, IterableLoader, Subset, TensorData
from dist_ai.distributed import World
from dist_ai.errors import BadSampleError, ConfigError, DataError

NUM = 23  # with bs=8: batches of 8, 8 and 7; on 3 ranks of 3, 3 and 2


@dataclass
class NumberToPixels(Transform):
    """An item to a 1 x 6 x 6 image that says which it is."""

    def encodes(self, x: int):
        return TensorImage(torch.arange(36.0).view(1, 6, 6) + 100 * x, item=x)


@dataclass
class SomeWindow(Transform):
    """A 4 x 4 window of one image, at a random place in training."""

    def encodes(self, x: TensorImage, draw: Draw | None):
        top, left = (int(draw.uniform(0, 3)), int(draw.uniform(0, 3))) if draw is not None else (1, 1)
        return x[..., top : top + 4, left : left + 4]


@dataclass
class RandomBrightness(Transform):
    """A factor for each image of a training batch."""

    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: TensorImage, draw: Draw | None):
        assert draw is not None
        return x * torch.from_numpy(np.asarray(draw.uniform(0.5, 1.5))).float().view(-1, 1, 1, 1)


def pictures(num: int = NUM, split_idx: int = 0) -> Subset:
    datasets = Datasets(range(num), [[NumberToPixels], [str, Categorize]], (range(num), range(num)))
    return datasets.train if split_idx == 0 else datasets.valid


def picture_loader(**facts: Any) -> DataLoader:
    facts = {"bs": 8, "shuffle": True, "num_workers": 0, "seed": 5, **facts}
    dataset = facts.pop("dataset", None) or pictures(split_idx=1 - facts["shuffle"])
    return DataLoader(dataset, item_tfms=SomeWindow(), batch_tfms=RandomBrightness(), **facts)


def world(rank: int, world_size: int) -> World:
    return World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)


def by_position(loader: DataLoader, epoch: int, start: int = 0) -> dict[int, Any]:
    """What this rank got at each position of the epoch's order."""
    seen = {}
    for share, (x, y) in loader.batches(epoch, start):
        assert (type(x), type(y)) == (TensorImage, TensorCategory)
        for i, position in enumerate(share.positions[: share.num_local].tolist()):
            assert int(y[i]) == loader.dataset.pipelines[1](share.indices[i].item())
            seen[position] = x[i].tolist()
    return seen


# ------------------------------------------------------------------------------------ the same values


@pytest.fixture(scope="module")
def expected() -> dict[bool, list[Any]]:
    """One process without workers: what all others must give, of 2 epochs, shuffled or not."""
    values = {
        shuffle: [by_position(picture_loader(shuffle=shuffle), epoch) for epoch in (0, 1)] for shuffle in (True, False)
    }
    for epochs in values.values():
        assert [sorted(epoch) for epoch in epochs] == [list(range(NUM))] * 2
    return values


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_pixels_do_not_depend_on_the_number_of_ranks_or_workers(
    expected: Any, num_workers: int, world_size: int, shuffle: bool
):
    for epoch in (0, 1):
        together: dict[int, Any] = {}
        for rank in range(world_size):
            loader = picture_loader(shuffle=shuffle, num_workers=num_workers, world=world(rank, world_size))
            together |= by_position(loader, epoch)
        assert together == expected[shuffle][epoch]


def test_training_is_random_and_validation_is_not(expected: Any):
    assert expected[True][0] != expected[True][1]
    assert expected[False][0] == expected[False][1]
    middle = [[[200.0 + 6 * row + column for column in range(1, 5)] for row in range(1, 5)]]
    assert expected[False][0][2] == middle


def values_of_this_rank() -> list[dict[int, Any]]:
    torch.multiprocessing.set_start_method("fork", force=True)  # a rank of these tests begins with "forkserver"
    loader = picture_loader(num_workers=1)
    assert loader.world.world_size == 2
    return [by_position(loader, epoch) for epoch in (0, 1)]


def test_real_ranks_find_their_part_by_themselves(spawn: Any, expected: Any):
    first, second = spawn(2, values_of_this_rank)
    for epoch in (0, 1):
        assert not first[epoch].keys() & second[epoch].keys()
        assert {**first[epoch], **second[epoch]} == expected[True][epoch]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_may_begin_in_the_middle(expected: Any, num_workers: int):
    loader = picture_loader(num_workers=num_workers)
    late = by_position(loader, 1, start=2)
    assert late == {position: expected[True][1][position] for position in range(16, NUM)}


def test_each_pass_of_a_hand_written_loop_is_the_next_epoch():
    loader = picture_loader()
    passes = [[y.tolist() for _, y in loader] for _ in range(2)]
    epochs = [[y.tolist() for _, (_, y) in loader.batches(epoch)] for epoch in (0, 1)]
    assert passes == epochs
    assert passes[0] != passes[1]
    assert len(loader) == len(passes[0]) == 3


def test_one_batch_is_the_first_of_the_first_epoch():
    x, y = picture_loader().one_batch()
    first_x, first_y = next(iter(picture_loader()))
    assert torch.equal(x, first_x)
    assert torch.equal(y, first_y)


class DrawsByItself(Dataset[Any]):
    """A data set as people write them: it draws from every global generator."""

    def __len__(self) -> int:
        return NUM

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, random.random() + np.random.rand() + torch.rand(()).item()


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 1), (1, 2), (3, 0)])
def test_what_draws_from_the_global_generators_draws_by_sample_too(world_size: int, num_workers: int):
    def drawn(epoch: int, rank: int = 0, world_size: int = 1, num_workers: int = 0) -> dict[int, float]:
        loader = DataLoader(
            DrawsByItself(), 8, shuffle=True, seed=5, num_workers=num_workers, world=world(rank, world_size)
        )
        pairs = [
            (index, value)
            for share, (indices, values) in loader.batches(epoch)
            for index, value in zip(indices.tolist()[: share.num_local], values.tolist(), strict=False)
        ]
        return dict(pairs)

    alone = drawn(0)
    assert len(set(alone.values())) == NUM
    assert alone != drawn(1)
    others: dict[int, float] = {}
    for rank in range(world_size):
        others |= drawn(0, rank, world_size, num_workers)
    assert others == alone


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_touches_no_global_random_state(num_workers: int):
    def state() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]

    before = state()
    for _ in range(2):
        assert len(list(picture_loader(num_workers=num_workers))) == 3
    assert state() == before


def test_a_rank_without_a_sample_in_a_batch_still_gets_one():
    loader = picture_loader(dataset=pictures(5), bs=4, world=world(2, 3))
    shares, batches = zip(*loader.batches(0), strict=True)
    assert [share.num_local for share in shares] == [1, 0]
    assert [len(x) for x, _ in batches] == [1, 1]


# ------------------------------------------------------------------------------------ workers


class Pids(Sequence[int]):
    """Samples are the process that makes them."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, i: Any) -> int:
        return os.getpid()


def test_workers_live_as_long_as_the_loader():
    loader = DataLoader(Pids(), bs=1, num_workers=2)
    first, second = ({int(pid) for pid in loader} for _ in range(2))
    assert len(first) == 2
    assert second == first
    assert os.getpid() not in first


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_an_abandoned_epoch_leaves_nothing_behind(num_workers: int):
    loader = picture_loader(bs=2, num_workers=num_workers)
    expected = by_position(picture_loader(bs=2), epoch=1)
    for taken in (1, 3):
        under_way = loader.batches(0)
        for _ in range(taken):
            next(under_way)
        assert by_position(loader, epoch=1) == expected
    under_way = loader.batches(0)
    next(under_way)
    del under_way
    assert by_position(loader, epoch=1) == expected


def test_two_passes_at_once_are_refused_where_workers_would_mix_them():
    loader = picture_loader(bs=2, num_workers=1)
    first, second = loader.batches(0), loader.batches(1)
    next(first)
    next(second)
    message = (
        "another pass over this loader began while this one was under way, and its workers serve one at a time; make"
    )
    with pytest.raises(ConfigError, match=re.escape(message)):
        next(first)
    assert next(second)[0].step == 1
    alone = picture_loader(bs=2)
    assert [a.step == b.step for (a, _), (b, _) in zip(alone.batches(0), alone.batches(0), strict=True)] == [True] * 12


def test_by_default_the_cores_are_dealt_to_the_ranks_and_one_is_left_for_training(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)

    def default(local_world_size: int, dataset: Any = None, **facts: Any) -> int:
        return DataLoader(dataset or Pids(), world=world(0, local_world_size), **facts).num_workers

    assert [default(1), default(2), default(8), default(16)] == [7, 3, 0, 0]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(500)), raising=False)
    assert default(1) == 16
    tensors = TensorData(torch.zeros(99, 2))
    assert default(1, tensors) == 0
    assert default(1, tensors, item_tfms=[len]) == 16


# ------------------------------------------------------------------------------------ errors


class Fragile(Sequence[Any]):
    """Samples 5 and on cannot be read; 7 kills the process that tries."""

    def __len__(self) -> int:
        return 8

    def item(self, i: int) -> Path:
        return Path(f"train/cat/{i}.jpg")

    def __getitem__(self, i: Any) -> Any:
        if i == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        if i == 5:
            raise OSError("image file is truncated")
        return torch.zeros(3 if i == 6 else 2)


class Some(Sequence[Any]):
    """Some samples of a data set."""

    def __init__(self, dataset: Any, indices: list[int]) -> None:
        self.dataset, self.indices = dataset, indices

    def __len__(self) -> int:
        return len(self.indices)

    def item(self, i: int) -> Any:
        return self.dataset.item(self.indices[i])

    def __getitem__(self, i: Any) -> Any:
        return self.dataset[self.indices[i]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_that_cannot_be_read_is_named_with_its_file(num_workers: int):
    loader = DataLoader(Some(Fragile(), [0, 1, 2, 5, 3]), bs=2, num_workers=num_workers)
    for _ in range(2):  # the workers outlive it
        batches = iter(loader)
        assert next(batches).shape == (2, 2)
        with pytest.raises(
            BadSampleError, match=r"^sample 3 \(train/cat/5\.jpg\): OSError: image file is truncated(\n|$)"
        ):
            next(batches)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_samples_that_do_not_fit_together_are_named_with_their_files(num_workers: int):
    loader = DataLoader(Some(Fragile(), [0, 6]), bs=2, num_workers=num_workers)
    message = (
        "samples of different shapes do not stack into a batch: (2,), (3,); give them one size with an item transform such "
        "as Resize. The samples are sample 0 (train/cat/0.jpg), sample 1 (train/cat/6.jpg)"
    )
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        list(loader)


def bad_collate(samples: list[Any]) -> Any:
    raise KeyError("x")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_in_a_collate_of_your_own_names_the_samples(num_workers: int):
    loader = DataLoader(list(range(3)), bs=2, num_workers=num_workers, collate=bad_collate)
    with pytest.raises(DataError, match=re.escape("KeyError: 'x'. The samples are sample 0, sample 1")):
        list(loader)


def test_a_killed_worker_is_one_clear_error_and_no_hang():
    samples = Some(Fragile(), [7, 0, 1])
    loader = DataLoader(samples, bs=1, num_workers=1)
    began = time.monotonic()
    with pytest.raises(DataError, match="a loader process ended before its work was done: DataLoader worker") as error:
        list(loader)
    assert "use fewer num_workers or a smaller bs; num_workers=0 loads in the training process itself" in str(
        error.value
    )
    assert time.monotonic() - began < 30
    loader.fetcher.dataset.indices = [0, 1, 2]
    assert len(list(loader)) == 3  # with new workers


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"bs": 0}, "bs=0: a batch has at least 1 sample"),
        ({"num_workers": -1}, "num_workers=-1: expected 0 (load in this process) or more"),
    ],
)
def test_an_argument_that_cannot_work_is_refused(facts: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataLoader(list(range(4)), **facts)


def test_data_that_cannot_be_trained_on_is_refused_at_set_up():
    with pytest.raises(DataError, match="the data set has no samples; a loader needs at least 1"):
        DataLoader([])
    message = "drop_last=True leaves no batch: 3 samples are fewer than bs=4; use a smaller bs or drop_last=False"
    with pytest.raises(DataError, match=re.escape(message)):
        DataLoader([1, 2, 3], bs=4, drop_last=True)


def test_fewer_training_samples_than_ranks_are_refused_and_fewer_validation_samples_are_not():
    message = "2 training sample(s) for 3 workers: a worker without a sample only waits for the others; start at most 2"
    with pytest.raises(DataError, match=re.escape(message)):
        DataLoader([1, 2], shuffle=True, world=world(0, 3))
    loader = DataLoader([1, 2], bs=8, world=world(2, 3))
    [(share, batch)] = loader.batches()
    assert (share.num_local, batch.tolist()) == (0, [1])


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


class Endless:
    def __getitem__(self, i: int) -> int:
        return i


@pytest.mark.parametrize("dataset", [Stream(), Endless()], ids=lambda dataset: type(dataset).__name__)
def test_data_without_a_length_is_refused(dataset: Any):
    message = f"{type(dataset).__name__} has no length and no samples by number; give what is iterated over to an IterableLoader"
    for item_tfms in ((), [len]):
        with pytest.raises(ConfigError, match=re.escape(message)):
            DataLoader(dataset, item_tfms=item_tfms)


# ------------------------------------------------------------------------------------ whole batches and torch's loaders


class WholeBatches:
    """Can only be fetched."""

    def __len__(self) -> int:
        return 10

    def fetch(self, indices: torch.Tensor) -> torch.Tensor:
        assert indices.dtype == torch.int64
        return indices * 10


def test_whole_batches_are_fetched_in_one_call_a_batch():
    loader = DataLoader(WholeBatches(), bs=4, world=world(1, 2))
    assert [batch.tolist() for batch in loader] == [[10, 30], [50, 70], [90]]


def test_transforms_of_one_sample_run_on_tensors_too():
    tensors = TensorDataset(torch.arange(6.0), torch.arange(6))
    for num_workers in (0, 1):
        loader = DataLoader(tensors, bs=3, item_tfms=[lambda xy: (xy[0] + 100, xy[1])], num_workers=num_workers)
        assert [x.tolist() for x, _ in loader] == [[100, 101, 102], [103, 104, 105]]


def test_a_collate_of_your_own_runs_on_tensors_too():
    loader = DataLoader(TensorData(torch.arange(4)), bs=2, collate=lambda samples: [int(x) for (x,) in samples])
    assert list(loader) == [[0, 1], [2, 3]]


def test_what_only_gives_whole_batches_cannot_be_transformed_by_sample():
    message = "WholeBatches gives whole batches only, so neither item_tfms nor collate can work on its samples; use batch_tfms"
    with pytest.raises(ConfigError, match=re.escape(message)):
        DataLoader(WholeBatches(), item_tfms=[len])


class Squares(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[float, int]:
        return float(i * i), i


def test_a_torch_loader_is_taken_over_with_its_batches_and_collation():
    theirs = TorchDataLoader(Squares(), batch_size=4)
    ours = DataLoader.from_torch(theirs)
    for (x, y), (their_x, their_y) in zip(ours, theirs, strict=True):
        assert (x.dtype, y.dtype) == (torch.float64, torch.int64)  # torch's collate, not ours
        assert torch.equal(x, their_x)
        assert torch.equal(y, their_y)


def test_a_torch_loaders_order_last_batch_and_workers_are_kept():
    theirs = TorchDataLoader(Squares(), batch_size=4, shuffle=True, drop_last=True, num_workers=1)
    ours = DataLoader.from_torch(theirs, seed=3)
    assert (ours.shuffle, ours.drop_last, ours.num_workers, ours.bs, ours.seed) == (True, True, 1, 4, 3)
    assert (len(ours), ours.num_samples) == (2, 8)
    assert all(y.tolist() != list(range(4)) for _, y in ours)


def test_a_tensor_data_set_in_a_torch_loader_is_fetched_by_whole_batches():
    x = torch.randn(10, 2)
    loader = DataLoader.from_torch(TorchDataLoader(TensorDataset(x, torch.arange(10)), batch_size=4))
    assert loader.fetcher.whole_batches
    assert torch.equal(torch.cat([batch for batch, _ in loader]), x)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (lambda: TorchDataLoader(Stream(), batch_size=2), "an IterableDataset and batch_size=2"),
        (lambda: TorchDataLoader(Squares(), batch_size=None), "SequentialSampler and batch_size=None"),
        (
            lambda: TorchDataLoader(
                Squares(), batch_sampler=BatchSampler(SequentialSampler(Squares()), 2, drop_last=False)
            ),
            "SequentialSampler and batch_size=None",
        ),
        (
            lambda: TorchDataLoader(Squares(), sampler=DistributedSampler(Squares(), num_replicas=2, rank=0)),
            "DistributedSampler and batch_size=1",
        ),
        (lambda: TorchDataLoader(Squares(), sampler=[3, 1]), "list and batch_size=1"),
        (lambda: TorchDataLoader(Squares(), sampler=RandomSampler(Squares(), replacement=True)), "RandomSampler"),
        (lambda: TorchDataLoader(Squares(), sampler=RandomSampler(Squares(), num_samples=3)), "RandomSampler"),
        (lambda: TorchDataLoader(Squares(), sampler=SequentialSampler(range(3))), "SequentialSampler and batch_size=1"),
    ],
)
def test_a_torch_loader_with_an_order_of_its_own_is_refused(given: Any, named: str):
    message = (
        f"{named}.* cannot be dealt out to ranks; give one with a map-style data set, batch_size and shuffle=True or"
    )
    with pytest.raises(ConfigError, match=message):
        DataLoader.from_torch(given())


def test_where_a_sampler_of_torchs_is_refused_what_does_the_same_is_named():
    weighted = TorchDataLoader(Squares(), sampler=WeightedRandomSampler([1.0] * 10, 10))
    with pytest.raises(
        ConfigError, match=r"shuffle=True or False, or DataLoader\(dataset, bs, order=WeightedOrder\(weights"
    ):
        DataLoader.from_torch(weighted)
    shared_out = TorchDataLoader(Squares(), sampler=DistributedSampler(Squares(), num_replicas=2, rank=0))
    with pytest.raises(ConfigError, match="shuffle=True or False: batches are dealt out to the ranks by themselves"):
        DataLoader.from_torch(shared_out)


def test_a_part_of_a_torch_data_set_is_a_data_set():
    loader = DataLoader.from_torch(TorchDataLoader(TorchSubset(Squares(), [9, 1]), batch_size=2))
    assert [y.tolist() for _, y in loader] == [[9, 1]]


# ------------------------------------------------------------------------------------ the loaders of a run


def labelled(num_train: int = 9) -> Datasets:
    items = list(range(num_train + 4))
    parts = (items[:num_train], items[num_train:])
    return Datasets(
        items, [[NumberToPixels], [lambda i: "odd" if i % 2 else "even", Categorize(["even", "odd"])]], parts
    )


def test_training_is_shuffled_and_validation_is_in_order():
    dls = DataLoaders.from_datasets(labelled(), bs=4, val_bs=3, num_workers=0, seed=2)
    train, valid = dls
    assert (train.shuffle, train.split_idx, train.bs, valid.shuffle, valid.split_idx, valid.bs) == (
        True,
        0,
        4,
        False,
        1,
        3,
    )
    assert [x.shape[0] for x, _ in valid] == [3, 1]
    assert [y.tolist() for _, y in valid] == [[1, 0, 1], [0]]
    assert (dls.vocab, dls.seed, dls.device.type, dls.has_data) == (["even", "odd"], 2, "cpu", True)


@pytest.mark.parametrize(
    ("num_train", "bs", "drop_last", "sizes"),
    [
        (9, 4, None, [4, 4]),
        (10, 4, None, [4, 4, 2]),
        (9, 4, False, [4, 4, 1]),
        (9, 1, None, [1] * 9),
        (1, 4, None, [1]),
    ],
)
def test_a_last_batch_of_a_single_sample_is_left_out_for_the_sake_of_batch_norm(num_train, bs, drop_last, sizes):
    dls = DataLoaders.from_datasets(labelled(num_train), bs=bs, drop_last=drop_last, num_workers=0)
    assert [len(y) for _, y in dls.train] == sizes
    assert sum(len(y) for _, y in dls.valid) == 4  # never of validation


def test_new_items_are_loaded_as_the_validation_samples_are():
    dls = DataLoaders.from_datasets(
        labelled(), bs=4, item_tfms=SomeWindow(), batch_tfms=RandomBrightness(), num_workers=0
    )
    [(x,)] = list(dls.test_dl([9, 10], num_workers=0))
    assert torch.equal(x, next(iter(dls.valid))[0][:2])


def test_batch_transforms_can_be_added_to_both_loaders_and_to_what_new_items_get():
    dls = DataLoaders.from_datasets(labelled(), bs=4, num_workers=0)
    dls.add_batch_tfms(RandomBrightness())
    dls.add_batch_tfms([SomeWindow])
    for pipeline in (dls.train.stage.pipeline, dls.valid.stage.pipeline, dls.recipe.batch_tfms):
        assert repr(pipeline) == "Pipeline: RandomBrightness() -> SomeWindow()"


def test_torch_loaders_are_welcome():
    dls = DataLoaders(TorchDataLoader(Squares(), batch_size=4, shuffle=True), TorchDataLoader(Squares(), batch_size=5))
    assert (type(dls.train), dls.train.shuffle, len(dls.train), len(dls.valid)) == (DataLoader, True, 3, 2)
    assert dls.test_dl([torch.tensor([3.0])]).one_batch()[0].tolist() == [[3.0]]  # an item is an input as it is there
    several = DataLoaders(TorchDataLoader(Squares(), batch_size=4), n_inp=2)
    with pytest.raises(
        DataError, match="these loaders were made from ready samples, so it is not known how an item becomes"
    ):
        several.test_dl([1])


def test_loaders_without_data_say_so():
    recipe = DataLoaders.from_datasets(labelled(), num_workers=0).recipe
    dls = DataLoaders.without_data(recipe)
    assert not dls.has_data
    assert dls.vocab == ["even", "odd"]
    for name in ("train", "valid"):
        with pytest.raises(
            DataError, match=f"there is no {name} loader: this was loaded from an export; set learn.dls"
        ):
            getattr(dls, name)
    with pytest.raises(AttributeError, match="'DataLoaders' object has no attribute 'trian'"):
        dls.trian  # noqa: B018


def test_a_loader_is_all_that_a_learner_asks_for():
    asked = [name for name in vars(loader_module.Loader) if not name.startswith("_")] + ["__len__"]
    assert all(hasattr(DataLoader, name) for name in asked)
    assert "batches" in asked


# ------------------------------------------------------------------------------------ bad samples


class SomeBad(Dataset[Any]):
    """Of 20 samples, these cannot be read."""

    bad: ClassVar[set[int]] = {3, 4, 5, 17}

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> int:
        if index in self.bad:
            raise OSError(f"file {index} is torn")
        return index


def skipping(rank: int, world_size: int, **options: Any) -> tuple[list[tuple[list[int], list[int], int]], set[str]]:
    """Returns (values, indices, num_local) of each batch on a rank, and what was skipped."""
    loader = DataLoader(
        SomeBad(),
        options.pop("bs", 4),
        bad_samples="skip",
        world=world(rank, world_size),
        **{"num_workers": 0, **options},
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        got = [(batch.tolist(), share.indices.tolist(), share.num_local) for share, batch in loader.batches(0)]
    assert {str(each.message) for each in told} == {f"skipped: {message}" for message in loader.skipped}
    return got, set(loader.skipped)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_validation_bad_samples_are_left_out_and_counted(num_workers: int):
    got, skipped = skipping(0, 1, num_workers=num_workers)
    assert [value for values, _, _ in got for value in values] == [i for i in range(20) if i not in SomeBad.bad]
    assert all(values == indices and len(values) == num_local for values, indices, num_local in got)
    assert skipped == {f"sample {i}: OSError: file {i} is torn" for i in SomeBad.bad}


def test_a_validation_share_of_bad_samples_only_runs_along_with_another():
    got, _ = skipping(0, 1, bs=3)
    values, indices, num_local = got[1]  # samples 3, 4 and 5
    assert (len(values), indices, num_local) == (1, [5], 0)
    assert values[0] not in SomeBad.bad


@pytest.mark.parametrize("world_size", [2, 3])
def test_in_training_another_sample_takes_the_place_the_same_on_any_number_of_ranks(world_size: int):
    def batches(world_size: int) -> list[dict[int, int]]:
        ranks = [skipping(rank, world_size, shuffle=True, seed=3)[0] for rank in range(world_size)]
        return [
            {
                index: value
                for values, indices, num_local in step
                for index, value in zip(indices[:num_local], values, strict=False)
            }
            for step in zip(*ranks, strict=True)
        ]

    alone = batches(1)
    assert [len(batch) for batch in alone] == [4] * 5
    assert {i for batch in alone for i, value in batch.items() if value != i} == SomeBad.bad
    assert not SomeBad.bad & {value for batch in alone for value in batch.values()}
    assert batches(world_size) == alone


class AllBad(SomeBad):
    bad: ClassVar[set[int]] = set(range(20))


def test_when_all_are_bad_it_says_so_and_ends():
    with pytest.raises(
        BadSampleError, match=r"^21 samples in a row cannot be read; the last: sample \d+: OSError: file \d+ is torn$"
    ):
        list(DataLoader(AllBad(), 4, shuffle=True, num_workers=0, bad_samples="skip"))


def test_a_policy_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"^bad_samples='ignore': expected 'raise' or 'skip'$"):
        DataLoader([1], bad_samples="ignore")


# ------------------------------------------------------------------------------------ another loader like it


def test_a_new_loader_differs_in_what_is_said_only():
    loader = picture_loader(bs=8)
    other = loader.new(bs=5, shuffle=False)
    assert (other.bs, other.shuffle, other.seed, other.dataset) == (5, False, 5, loader.dataset)
    assert [type(tfm) for tfm in other.fetcher.item_tfms.tfms] == [SomeWindow]
    with pytest.raises(TypeError, match="num_wokers"):
        loader.new(num_wokers=1)


class Stops(WholeBatches):
    def fetch(self, indices: Any):
        if 6 in indices:
            raise StopIteration
        return super().fetch(indices)


def test_a_data_set_that_raises_stop_iteration_does_not_end_the_epoch():
    with pytest.raises(
        DataError, match=r"^the data set raised StopIteration where a batch was asked for; raise an error"
    ):
        list(DataLoader(Stops(), bs=4, num_workers=1))


class DeepBug:
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return {}["deep bug"]


def test_an_error_in_a_worker_tells_where_in_the_users_code_it_came_from():
    with pytest.raises(BadSampleError, match=r"KeyError: 'deep bug'") as caught:
        list(DataLoader(DeepBug(), bs=4, num_workers=1))
    [note] = caught.value.__notes__
    assert note.startswith("raised in a worker process by:\nTraceback")
    assert "test_loader.py" in note
    assert 'return {}["deep bug"]' in note


@dataclass
class Misused(Transform):
    def encodes(self, x: int):
        raise ConfigError("the transform was made wrong")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_mistake_of_the_program_is_no_bad_sample(num_workers: int):
    loader = DataLoader(range(8), bs=4, item_tfms=Misused(), bad_samples="skip", num_workers=num_workers)
    with pytest.raises(ConfigError, match=r"^the transform was made wrong$"):
        list(loader)


# ------------------------------------------------------------------------------------ copies and forks


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_a_loader_whose_workers_run_can_be_copied_pickled_and_used_in_a_fork(kind: str):
    loader: Any = (
        DataLoader(range(8), bs=4, num_workers=1)
        if kind == "map"
        else IterableLoader(range(8), bs=4, num_workers=1, shuffle_buffer=2)
    )
    first, second = ([batch.tolist() for _, batch in loader.batches(epoch)] for epoch in (0, 1))
    for other in (copy.deepcopy(loader), pickle.loads(pickle.dumps(loader))):
        assert [[batch.tolist() for _, batch in other.batches(epoch)] for epoch in (0, 1)] == [first, second]
    assert in_a_fork(lambda: [batch.tolist() for _, batch in loader.batches(1)] == second)
    assert in_a_fork(lambda: (vars(loader).clear(), gc.collect()) is not None)
    assert [batch.tolist() for _, batch in loader.batches(1)] == second  # and the workers here go on


def in_a_fork(holds: Callable[[], bool]) -> bool:
    """Returns whether something holds in a fork of this process; False if it does not end in time or fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12 on, where there are threads
        pid = os.fork()
    if not pid:
        signal.alarm(60)
        try:
            os._exit(0 if holds() else 1)
        finally:
            os._exit(2)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("device", ["cda", *([] if torch.cuda.is_available() else ["cuda", "cuda:1"])])
def test_a_device_that_is_not_here_is_explained_before_anything_is_loaded(device: str) -> None:
    text = rf"device '{device}' cannot be used here: .*; use 'cpu', or leave it out"
    with pytest.raises(ConfigError, match=text):
        DataLoader(TensorData(torch.zeros(4, 1)), 2, device=device)
    loader = DataLoader(TensorData(torch.zeros(4, 1)), 2)
    with pytest.raises(ConfigError, match=text):
        loader.to(device)
    assert loader.device.type == "cpu"


class Learning(Transform):
    def setups(self, items: Any) -> None: ...

    def encodes(self, x: torch.Tensor) -> Any:
        return x


@pytest.mark.parametrize("place", ["item_tfms", "batch_tfms"])
def test_a_transform_that_waits_for_a_set_up_which_does_not_come_is_refused(place: str) -> None:
    text = (
        "Learning.setups would not be called: transforms of samples and batches are not set up, only those of a block or of "
        "Datasets, which see the training items; give it what it learns as an argument"
    )
    with pytest.raises(ConfigError, match=re.escape(text)):
        DataLoader(TensorData(torch.zeros(4, 1)), 2, **{place: [Learning]})


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (
            {"batch_size": 4},
            "DataLoader has no argument 'batch_size'; here it is bs, counted over all ranks. There are",
        ),
        ({"collate_fn": list}, "DataLoader has no argument 'collate_fn'; here it is collate. There are dataset, bs"),
        ({"shufle": True}, "DataLoader has no argument 'shufle'; did you mean 'shuffle'? There are dataset, bs"),
    ],
)
def test_torchs_words_for_a_loader_are_answered_with_ours(argument: dict[str, Any], text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        DataLoader(TensorData(torch.zeros(4, 1)), **argument)
