"""What is only iterated over: the same values for any number of ranks and workers, an exact end, epochs of any length."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader
from torch.utils.data import IterableDataset, get_worker_info
from toy import BS, NUM_TRAIN, give_back_run_directories, make_data, make_dls, make_learner, weights_of

from dist_ai.callbacks import Callback, CancelFit, GradientAccumulation
from dist_ai.core.randomness import Draw
from dist_ai.core.transform import Transform
from dist_ai.data import DataLoader, DataLoaders, IterableLoader
from dist_ai.distributed import World
from dist_ai.errors import BadSampleError, ConfigError, DataError, UnknownLengthError
from dist_ai.learner.interpretation import Interpretation

NUM = 23  # with bs=8: batches of 8, 8 and 7; on 3 ranks of 3, 3 and 2


def numbers(num: int = NUM) -> Iterator[int]:
    yield from range(num)


@dataclass
class NoisyNumber(Transform):
    """A number, and one drawn for it."""

    def encodes(self, x: int, draw: Draw | None):
        return x, float(draw.uniform()) if draw is not None else 0.0


def number_loader(source: Any = numbers, **facts: Any) -> IterableLoader:
    facts = {"bs": 8, "shuffle_buffer": 6, "num_workers": 0, "seed": 5, **facts}
    return IterableLoader(source, item_tfms=NoisyNumber(), **facts)


def world(rank: int, world_size: int) -> World:
    return World(rank=rank, world_size=world_size, local_rank=rank, local_world_size=world_size)


def by_position(loader: IterableLoader, epoch: int, start: int = 0) -> dict[int, Any]:
    """What this rank got at each position of the epoch's order."""
    seen = {}
    for share, (x, noise) in loader.batches(epoch, start):
        for i, position in enumerate(share.positions[: share.num_local].tolist()):
            seen[position] = x[i].item(), noise[i].item()
    return seen


def values(loader: IterableLoader, epoch: int = 0, start: int = 0) -> list[int]:
    seen = by_position(loader, epoch, start)
    return [seen[position][0] for position in sorted(seen)]


# ------------------------------------------------------------------------------------ the same values


@pytest.fixture(scope="module")
def expected() -> dict[Any, list[Any]]:
    """One process without workers: what all others must give, of 3 epochs, whole or of 10 samples."""
    return {
        per_epoch: [by_position(number_loader(num_samples=per_epoch), epoch) for epoch in range(3)]
        for per_epoch in (None, 10)
    }


@pytest.mark.parametrize("per_epoch", [None, 10])
@pytest.mark.parametrize(
    ("num_workers", "world_size"),
    [
        (0, 2),
        (0, 3),
        (0, 4),
        (1, 1),
        (1, 2),
        (2, 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(2, 3), (4, 1), (4, 2)]),
    ],
)
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_samples_do_not_depend_on_the_number_of_ranks_or_workers(
    expected: Any, num_workers: int, world_size: int, per_epoch: int | None
):
    together: list[dict[int, Any]] = [{}, {}, {}]
    for rank in range(world_size):
        loader = number_loader(num_workers=num_workers, world=world(rank, world_size), num_samples=per_epoch)
        for epoch in range(3):
            mine = by_position(loader, epoch)
            assert not together[epoch].keys() & mine.keys()
            together[epoch] |= mine
    assert together == expected[per_epoch]


def test_an_epoch_is_the_stream_once_and_each_has_an_order_of_its_own():
    loader = number_loader()
    orders = [values(loader, epoch) for epoch in (0, 1)]
    assert [sorted(order) for order in orders] == [list(range(NUM))] * 2
    assert len({tuple(order) for order in (*orders, range(NUM))}) == 3
    assert values(number_loader(shuffle_buffer=0)) == list(range(NUM))


def test_a_shuffled_sample_stays_within_the_buffer_and_windows_end_elsewhere_each_epoch():
    loader = number_loader(lambda: numbers(1000), shuffle_buffer=50, bs=100)
    moved = [np.abs(np.array(values(loader, epoch)) - np.arange(1000)) for epoch in range(8)]
    assert all(5 < each.max() < 50 for each in moved)
    crossed = [np.array(values(loader, epoch))[:50] >= 50 for epoch in range(8)]
    assert any(each.any() for each in crossed)


def test_the_last_batch_is_exact_and_a_rank_without_a_sample_runs_along():
    shares = [
        [share for share, _ in number_loader(lambda: numbers(9), world=world(rank, 3)).batches()] for rank in range(3)
    ]
    assert [[share.num_local for share in of_rank] for of_rank in shares] == [[3, 1], [3, 0], [2, 0]]
    assert {(share.step, share.num_global) for of_rank in shares for share in of_rank} == {(0, 8), (1, 1)}
    assert all(len(share.indices) for of_rank in shares for share in of_rank)
    assert len(list(number_loader(lambda: numbers(9), drop_last=True))) == 1


@pytest.mark.parametrize("start", [1, 2, 3])
@pytest.mark.parametrize("per_epoch", [None, 17, 40])
def test_the_middle_of_an_epoch_is_found_on_another_number_of_ranks(start: int, per_epoch: int | None):
    whole = by_position(number_loader(num_samples=per_epoch), 2)
    rest: dict[int, Any] = {}
    for rank in range(3):
        rest |= by_position(number_loader(num_samples=per_epoch, world=world(rank, 3)), 2, start)
    assert rest == {position: value for position, value in whole.items() if position >= 8 * start}


# ------------------------------------------------------------------------------------ epochs of a chosen length


def test_epochs_of_a_chosen_length_go_on_in_the_stream():
    loader = number_loader(shuffle_buffer=0, num_samples=10)
    assert (len(loader), loader.num_samples) == (2, 10)
    assert [values(loader, epoch) for epoch in range(3)] == [
        list(range(10)),
        list(range(10, 20)),
        [20, 21, 22, *range(7)],
    ]
    assert values(loader, 1) == list(range(10, 20))  # asked for again
    assert values(number_loader(shuffle_buffer=0, num_samples=50)) == [*range(NUM), *range(NUM), 0, 1, 2, 3]


def test_an_epoch_that_follows_does_not_go_through_the_stream_again():
    given = []

    def stream() -> Iterator[int]:
        for number in range(1000):
            given.append(number)
            yield number

    loader = number_loader(stream, shuffle_buffer=0, num_samples=10)
    for epoch in range(5):
        list(loader.batches(epoch))
    assert given == list(range(50))


def test_a_sample_that_comes_again_is_augmented_in_another_way():
    seen = by_position(number_loader(lambda: numbers(3), num_samples=8), 0)
    assert len({noise for _, noise in seen.values()}) == 8


def test_an_endless_stream_has_epochs_too():
    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    loader = number_loader(endless, num_samples=16, num_workers=2)
    assert sorted(values(loader, 0) + values(loader, 1)) == sorted({*values(loader, 0), *values(loader, 1)})
    assert len(values(loader, 1)) == 16


def test_the_length_is_told_where_it_is_known_and_asked_for_where_not():
    loader = number_loader()
    assert loader.num_samples is None
    message = re.escape(
        "numbers is only iterated over, and has no len(). IterableLoader(num_samples=...) makes epochs of"
    )
    with pytest.raises(UnknownLengthError, match=message):
        len(loader)
    assert len(list(loader)) == 3  # which asks too

    class Sized(IterableDataset[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(range(5))

        def __len__(self) -> int:
            return 5

    assert (len(number_loader(Sized(), bs=2)), number_loader(Sized(), bs=2, drop_last=True).num_samples) == (3, 4)
    Sized.__len__ = lambda self: NotImplemented  # type: ignore[method-assign,assignment,return-value]
    assert number_loader(Sized()).num_samples is None
    Sized.__len__ = lambda self: 6  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"Sized gave 5 samples, and its len\(\) is 6; progress and schedules count on"):
        list(number_loader(Sized()))


# ------------------------------------------------------------------------------------ sources


class Skipping:
    """A stream that can begin in the middle, as Hugging Face's do."""

    def __init__(self, begin: int = 0, given: list[int] | None = None) -> None:
        self.begin = begin
        self.given = [] if given is None else given
        self.epochs: list[int] = []

    def skip(self, n: int) -> Skipping:
        return Skipping(self.begin + n, self.given)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)

    def __iter__(self) -> Iterator[int]:
        for number in range(self.begin, 100):
            self.given.append(number)
            yield number


def test_a_source_that_can_skip_is_not_gone_through_from_its_begin():
    source = Skipping()
    assert values(number_loader(source, shuffle_buffer=0), 0, 10) == list(range(80, 100))
    assert source.given == list(range(80, 100))
    source.given.clear()
    assert values(number_loader(source), 3, 10) == values(number_loader(lambda: numbers(100)), 3, 10)
    assert min(source.given) > 70
    assert source.epochs == [0, 3]
    for epoch, start in ((9, 1), (10, 0), (23, 0)):  # behind the end of the first round
        facts = {"shuffle_buffer": 0, "num_samples": 11, "bs": 4}
        assert values(number_loader(Skipping(), **facts), epoch, start) == values(
            number_loader(lambda: numbers(100), **facts), epoch, start
        )


class OfWorkers(IterableDataset[int]):
    """Deals itself out to torch's workers, as many do."""

    def __iter__(self) -> Iterator[int]:
        info = get_worker_info()
        return iter(range(NUM)[info.id :: info.num_workers] if info else range(NUM))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_torch_loader_of_an_iterable_data_set_is_taken_over(num_workers: int):
    given = TorchDataLoader(OfWorkers(), batch_size=8, num_workers=num_workers, drop_last=True)
    dls = DataLoaders(given, given)
    assert isinstance(dls.train, IterableLoader)
    assert (dls.train.split_idx, dls.valid.split_idx) == (0, 1)
    assert [batch.tolist() for batch in dls.train] == [list(range(8)), list(range(8, 16))]
    with pytest.raises(ConfigError, match="batch_size=None, whose data set makes the batches itself, cannot be dealt"):
        DataLoaders(TorchDataLoader(OfWorkers(), batch_size=None), given)


def test_what_a_source_draws_is_decided_by_seed_and_epoch_and_leaves_no_trace():
    def drawing() -> Iterator[int]:
        order = random.sample(range(NUM), NUM)
        for number in order:
            yield number + 100 * int(torch.randint(10, ())) + 1000 * int(np.random.randint(10))

    random.seed(1)
    states = random.getstate(), torch.get_rng_state()
    loader = number_loader(drawing, shuffle_buffer=0)
    first = values(loader, 0)
    assert (random.getstate(), torch.equal(torch.get_rng_state(), states[1])) == (states[0], True)
    random.seed(2)
    batches = loader.batches(0)
    again = []
    for _, (x, _) in batches:
        again += x.tolist()
        random.random()  # somebody else draws in between
    assert again == first != values(loader, 1)
    assert values(number_loader(drawing, shuffle_buffer=0), 0, 1) == first[8:]
    assert values(number_loader(drawing, shuffle_buffer=0, seed=6), 0) != first


def test_dicts_and_files_of_a_hub_stream_are_collated():
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    (batch,) = list(IterableLoader(rows, bs=2, num_workers=0))
    assert batch["text"] == ["a", "b"]
    assert batch["label"].tolist() == [0, 1]


# ------------------------------------------------------------------------------------ bad samples


@dataclass
class Fragile(Transform):
    """Numbers, but for those that end in 3."""

    bad: ClassVar[int] = 3

    def encodes(self, x: int):
        if x % 10 == self.bad:
            raise OSError(f"cannot read {x}")
        return float(x)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_sample_is_named(num_workers: int):
    loader = IterableLoader(numbers, bs=8, item_tfms=Fragile(), num_workers=num_workers)
    with pytest.raises(BadSampleError, match=r"sample 3 \(3\): OSError: cannot read 3"):
        list(loader)


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("split_idx", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_bad_samples_are_skipped_the_same_on_any_number_of_ranks(split_idx: int, world_size: int):
    def run(world_size: int, num_workers: int) -> tuple[dict[int, float], list[int], int]:
        got: dict[int, float] = {}
        sizes, skipped = [0, 0, 0], 0
        for rank in range(world_size):
            loader = IterableLoader(
                numbers,
                bs=8,
                item_tfms=Fragile(),
                bad_samples="skip",
                split_idx=split_idx,
                num_workers=num_workers,
                world=world(rank, world_size),
            )
            for share, batch in loader.batches():
                sizes[share.step] += share.num_local
                got |= dict(zip(share.positions[: share.num_local].tolist(), batch.tolist(), strict=False))
            skipped += sum(loader.skipped.values())
        return got, sizes, skipped

    got, sizes, skipped = run(world_size, 0)
    assert (got, sizes, skipped) == run(1, 2)
    assert skipped == 2
    assert sizes == ([8, 8, 7] if split_idx == 0 else [7, 7, 7])
    good = {position: float(position) for position in range(NUM) if position % 10 != 3}
    assert good.items() <= got.items()
    assert got.keys() - good.keys() == ({3, 13} if split_idx == 0 else set())
    assert all(got[position] // 8 == position // 8 for position in got)  # another sample of the same batch


@pytest.mark.filterwarnings("ignore:skipped")
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_samples_of_another_shape_than_most_are_skipped_the_same_on_any_number_of_ranks(world_size: int):
    def source() -> Iterator[torch.Tensor]:
        return (torch.full((3 if number in (2, 9) else 2,), float(number)) for number in range(16))

    got: dict[int, float] = {}
    skipped: list[str] = []
    for rank in range(world_size):
        loader = IterableLoader(source, bs=8, bad_samples="skip", num_workers=0, world=world(rank, world_size))
        for share, batch in loader.batches():
            assert batch.shape[1:] == (2,)
            got |= dict(zip(share.positions[: share.num_local].tolist(), batch[:, 0].tolist(), strict=False))
        skipped += loader.skipped
    assert got == {number: float(number) for number in range(16) if number not in (2, 9)}
    assert len(skipped) == 2
    assert "Tensor float32 (3,) is not that of most samples" in skipped[0]


def test_a_source_that_fails_says_where_and_what_to_do():
    def failing() -> Iterator[int]:
        yield from range(9)
        raise OSError("connection lost")

    for num_workers in (0, 2):
        loader = number_loader(failing, bad_samples="skip", num_workers=num_workers)
        with pytest.raises(
            DataError, match=r"failing failed after 9 samples: OSError: connection lost\. A stream cannot go"
        ):
            list(loader)


# ------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("source", "facts", "text"),
    [
        (numbers(), {}, "numbers can be gone through only once, and each epoch does so again; give the function"),
        (5, {}, "int cannot be iterated over; expected an iterable, or a function that returns one"),
        (numbers, {"bs": 0}, "bs=0: a batch has at least 1 sample"),
        (numbers, {"shuffle_buffer": -1}, "shuffle_buffer=-1: expected 0"),
        (numbers, {"num_samples": 0}, "num_samples=0: an epoch has at least 1 sample"),
        (numbers, {"num_workers": -1}, "num_workers=-1: expected 0"),
        (numbers, {"bad_samples": "ignore"}, "bad_samples='ignore': expected 'raise' or 'skip'"),
    ],
)
def test_what_cannot_work_is_refused_when_the_loader_is_made(source: Any, facts: Any, text: str):
    with pytest.raises(ConfigError, match=re.escape(text)):
        IterableLoader(source, **facts)


@pytest.mark.parametrize("facts", [{}, {"num_samples": 5}])
def test_a_stream_of_nothing_is_an_error(facts: Any):
    with pytest.raises(DataError, match=r"has no samples; check|gave no batch of bs=8 in epoch 0; check what it reads"):
        list(number_loader(lambda: iter(()), **facts))


# ------------------------------------------------------------------------------------ training


def stream_learner(facts: Any = None, **options: Any) -> Any:
    x, y = make_data()

    def training() -> Iterator[Any]:
        yield from zip(x[:NUM_TRAIN], y[:NUM_TRAIN], strict=True)

    def validation() -> Iterator[Any]:
        yield from zip(x[NUM_TRAIN:], y[NUM_TRAIN:], strict=True)

    train = IterableLoader(training, BS, split_idx=0, num_workers=0, **(facts or {}))
    return make_learner(dls=DataLoaders(train, IterableLoader(validation, 5, num_workers=0)), **options)


def train_on_a_stream(facts: Any) -> Any:
    learn = stream_learner(facts)
    learn.fit(2, 0.1)
    preds, targets = learn.get_preds()
    return weights_of(learn.model).numpy(), learn.recorder.losses, learn.validate(), preds.numpy(), targets.numpy()


def test_training_on_a_stream_is_training_on_its_samples():
    weights, losses, final, preds, targets = train_on_a_stream({})
    learn = make_learner(dls=make_dls(shuffle=False))
    learn.fit(2, 0.1)
    assert np.array_equal(weights, weights_of(learn.model))
    assert losses == learn.recorder.losses
    assert final == learn.validate()
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip((preds, targets), learn.get_preds(), strict=True))


@pytest.mark.parametrize("facts", [{"shuffle_buffer": 7}, {"shuffle_buffer": 7, "num_samples": 11}], ids=str)
def test_three_ranks_train_on_a_stream_as_one_does(spawn: Callable[..., list[Any]], facts: Any):
    alone = train_on_a_stream(facts)
    for weights, losses, final, preds, targets in spawn(3, train_on_a_stream, facts=facts):
        assert np.allclose(weights, alone[0], rtol=0, atol=1e-12)
        assert losses == pytest.approx(alone[1], abs=1e-12)
        assert final == pytest.approx(alone[2], abs=1e-12)
        assert np.allclose(preds, alone[3], atol=1e-12)
        assert np.array_equal(targets, alone[4])


class Killed(BaseException):
    """As a signal would."""


class KillAt(Callback):
    """Ends the program at a step, counted over epochs."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def before_batch(self) -> None:
        if self.state.training and self.state.train_step == self.step:
            raise Killed


def run_in(folder: str, facts: Any, killed_at: int | None = None) -> Any:
    options = {"run_dir": Path(folder), "checkpoint_every_s": None, "checkpoint_every_steps": 1}
    learn = stream_learner(facts, **options)
    try:
        learn.fit(2, 0.1, cbs=KillAt(killed_at))
    except Killed:
        return None
    finally:
        give_back_run_directories()
    return weights_of(learn.model).numpy(), learn.recorder.losses


@pytest.mark.parametrize("facts", [{"shuffle_buffer": 7}, {"shuffle_buffer": 7, "num_samples": 20}], ids=str)
def test_a_killed_fit_goes_on_in_the_stream_on_another_number_of_ranks(
    tmp_path: Path, spawn: Callable[..., list[Any]], facts: Any
):
    undisturbed = run_in(str(tmp_path / "whole"), facts)
    assert run_in(str(tmp_path / "killed"), facts, killed_at=4) is None
    for weights, losses in spawn(2, run_in, folder=str(tmp_path / "killed"), facts=facts):
        assert np.allclose(weights, undisturbed[0], rtol=0, atol=1e-12)
        assert losses == pytest.approx(undisturbed[1], abs=1e-12)


def test_a_schedule_needs_a_length_and_says_so_before_the_first_step():
    learn = stream_learner()
    with pytest.raises(
        UnknownLengthError, match=r"A schedule needs to know: give the loader num_samples=\.\.\., the samples of"
    ):
        learn.fit_one_cycle(1)
    assert learn.recorder.losses == []
    learn = stream_learner({"num_samples": 12})
    learn.fit_one_cycle(2)
    assert len(learn.recorder.losses) == 4


def test_what_must_know_where_an_epoch_ends_says_so():
    with pytest.raises(
        UnknownLengthError, match="a fit for a number of steps or samples must know where an epoch ends"
    ):
        stream_learner().fit(steps=5)
    with pytest.raises(
        UnknownLengthError, match="gradients of 2 batches make a step, and only the end of the training data"
    ):
        stream_learner().fit(1, cbs=GradientAccumulation(2 * BS))
    with pytest.raises(ConfigError, match="looks at samples by their number, and a IterableLoader has none"):
        Interpretation.from_learner(stream_learner())
    with pytest.raises(
        DataError, match="the train samples are only iterated over, and statistics choose some by number"
    ):
        stream_learner().dls.describe()


def test_gradients_are_accumulated_over_epochs_of_a_chosen_length():
    learn, same = stream_learner({"num_samples": NUM_TRAIN}), make_learner(dls=make_dls(shuffle=False))
    for each in (learn, same):
        each.fit(1, 0.1, cbs=GradientAccumulation(2 * BS))
    assert torch.allclose(weights_of(learn.model), weights_of(same.model), rtol=0, atol=1e-12)


def test_a_fit_by_the_clock_needs_no_length():
    learn = stream_learner()
    learn.fit(time=0.05)
    assert learn.recorder.losses


class StopAt(Callback):
    """Stops a fit at a step, counted over its epochs."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_batch(self) -> None:
        if self.state.training and self.state.train_step == self.step:
            raise CancelFit


def test_steps_are_counted_over_epochs_of_unknown_length():
    learn = stream_learner()
    learn.fit(4, cbs=StopAt(7))
    assert len(learn.recorder.losses) == 8


def test_a_loader_says_which_other_one_takes_a_stream():
    with pytest.raises(
        ConfigError, match="OfWorkers has no length and no samples by number; give what is iterated over to an"
    ):
        DataLoader(OfWorkers())
