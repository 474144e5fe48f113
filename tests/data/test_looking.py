"""Looking at what loaders give: which samples, how augmented, how far undone."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.core import Draw, TabularRow, TensorCategory, TensorRegression, TensorSeries, Transform
from dist_ai.data import CategoryBlock, DataBlock, DataLoader, DataLoaders, IndexSplitter, TensorData, TransformBlock
from dist_ai.errors import ConfigError

READ: list[int] = []


def wave(item: int) -> TensorSeries:
    READ.append(item)
    return TensorSeries(torch.full((1, 4), float(item)))


@dataclass
class Louder(Transform):
    """Raises each series of a training batch by a draw of its own, between 0 and a half."""

    split_idx: ClassVar[int | None] = 0

    def encodes(self, x: TensorSeries, draw: Draw) -> Any:
        """Returns the batch, louder."""
        return x + torch.as_tensor(draw.uniform()).view(-1, 1, 1).float() / 2


@dataclass
class Halved(Transform):
    """Halves a batch, which can be undone."""

    order: ClassVar[int] = 99

    def encodes(self, x: TensorSeries) -> Any:
        """Returns the half."""
        return x / 2

    def decodes(self, x: TensorSeries) -> Any:
        """Returns the whole."""
        return x * 2


def loaders(**options: Any) -> DataLoaders:
    block = DataBlock(
        (TransformBlock, CategoryBlock),
        get_x=wave,
        get_y=lambda item: f"thing {item % 3}",
        splitter=IndexSplitter(range(20, 30)),
        batch_tfms=[Louder(), Halved()],
    )
    return block.dataloaders(list(range(30)), **{"bs": 16, "num_workers": 0, "seed": 1, **options})


def seen(figure: Any) -> list[tuple[float, str]]:
    """Returns the height of the line and the title of each plot."""
    return [(float(axes.lines[0].get_ydata()[0]), axes.get_title()) for axes in figure.axes]


def test_the_first_training_samples_are_shown_augmented_and_undone_and_no_other_is_read() -> None:
    dls = loaders()
    x, y = dls.one_batch()
    READ.clear()
    figure = dls.show_batch(4)
    assert len(READ) == 4
    assert seen(figure) == [(pytest.approx(2 * float(x[i, 0, 0])), f"thing {int(y[i])}") for i in range(4)]
    assert all(height % 1 > 0 for height, _ in seen(figure))  # augmented
    assert len(dls.show_batch(99).axes) == 16


def test_validation_samples_and_new_ones_are_shown_too() -> None:
    dls = loaders()
    assert seen(dls.show_batch(3, dl=dls.valid)) == [(20, "thing 2"), (21, "thing 0"), (22, "thing 1")]
    assert seen(dls.show_batch(3, dl=dls.test_dl([5, 6], num_workers=0))) == [(5, ""), (6, "")]


def test_unique_shows_one_sample_as_so_many_epochs_draw_it() -> None:
    dls = loaders()
    drawn = seen(dls.show_batch(5, unique=True, figsize=(4, 3)))
    assert len({int(height) for height, _ in drawn}) == 1
    assert len({height for height, _ in drawn}) == 5
    assert drawn[0] == seen(dls.show_batch(1))[0]
    assert dls.show_batch(5, figsize=(4, 3)).get_size_inches().tolist() == [4, 3]


def show_on_a_rank() -> list[tuple[float, str]]:
    return seen(loaders().show_batch(8))


def test_each_rank_shows_its_own_samples_and_nobody_waits(spawn: Any) -> None:
    alone = seen(loaders().show_batch(16))
    first, second = spawn(2, show_on_a_rank)
    assert sorted(first + second) == sorted(alone)
    assert not set(first) & set(second)


def test_ready_samples_of_any_nesting_are_shown_as_they_are() -> None:
    ready = TensorData(torch.rand(8, 3), torch.arange(8))
    said = DataLoaders(TorchDataLoader(ready, batch_size=4), TorchDataLoader(ready, batch_size=4)).show_batch(2)  # type: ignore[arg-type]
    assert [text.get_text() for text in said.axes[0].texts[:2]] == ["input", "target"]
    rows = [({"a": float(i), "b": torch.zeros(2)}, TabularRow(torch.tensor([i]), torch.rand(1))) for i in range(4)]
    one = DataLoader(rows, 4, num_workers=0)
    shown = DataLoaders(one, one).show_batch()
    assert [text.get_text() for text in shown.axes[0].texts[:5]] == [
        "a",
        "b 0",
        "b 1",
        "cats 0 (target)",
        "conts 0 (target)",
    ]
    single = DataLoader([1.0, 2.0], 2, num_workers=0)
    assert [text.get_text() for text in DataLoaders(single, single).show_batch().axes[0].texts] == ["input", "1", "2"]
    typed = DataLoader([(TensorRegression(1.0), TensorCategory(i)) for i in range(3)], 2, num_workers=0)
    assert len(DataLoaders(typed, typed).show_batch().axes[0].texts) == 6


def test_a_number_of_samples_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^show_batch\(max_n=0\): expected at least 1 sample to show$"):
        loaders().show_batch(0)


def test_matplotlib_is_loaded_when_something_is_drawn_and_not_before() -> None:
    program = """
import sys
import dist_ai.vision, dist_ai.learner
assert "matplotlib" not in sys.modules, "loaded by importing"
from dist_ai.data import DataLoader, DataLoaders
loader = DataLoader([1.0, 2.0], 2, num_workers=0)
dls = DataLoaders(loader, loader)
assert "matplotlib" not in sys.modules, "loaded by making loaders"
dls.show_batch()
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules, "no window or backend is needed"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class WaveOfPitch(Transform):
    """A number to a series; its `decodes` is for that of one sample."""

    def encodes(self, x: int) -> Any:
        """Returns the series."""
        return TensorSeries(torch.full((1, 4), float(x)))

    def decodes(self, x: TensorSeries) -> Any:
        """Returns the series an octave higher, of one sample alone."""
        assert tuple(x.shape) == (1, 4)
        return 2 * x


def test_a_type_transform_undoes_one_sample_at_a_time_in_pictures() -> None:
    block = DataBlock(TransformBlock([WaveOfPitch]), splitter=IndexSplitter([3]), batch_tfms=[Halved()])
    figure = block.dataloaders(list(range(4)), bs=3, num_workers=0).show_batch()
    assert sorted(axes.lines[0].get_ydata().tolist() for axes in figure.axes) == [[0.0] * 4, [2.0] * 4, [4.0] * 4]


def test_each_loader_shows_itself() -> None:
    dls = loaders()
    assert seen(dls.valid.show_batch(3)) == seen(dls.show_batch(3, dl=dls.valid))
    assert seen(dls.train.show_batch(2, unique=True)) == seen(dls.show_batch(2, unique=True))
    alone = DataLoader([(TensorSeries(torch.ones(1, 4)), 2)], num_workers=0)
    assert seen(alone.show_batch()) == [(1, "2")]
    streams = DataBlock((TransformBlock, CategoryBlock(["a", "b"])), get_x=wave, get_y=lambda item: "a")
    stream = streams.stream_dataloaders(lambda: iter([1, 2]), lambda: iter([7, 8]), bs=2, num_workers=0)
    assert seen(stream.valid.show_batch(1)) == [(7, "a")]


def places(figure: Any) -> list[tuple[int, int]]:
    return [(axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start) for axes in figure.axes]


def test_pictures_stand_in_as_many_rows_and_columns_as_are_asked_for() -> None:
    dls = loaders()
    assert places(dls.show_batch(6, nrows=2)) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert places(dls.show_batch(3, ncols=1)) == [(0, 0), (1, 0), (2, 0)]
    figure = dls.show_batch(nrows=1, ncols=4)
    assert places(figure) == [(0, i) for i in range(4)]
    assert seen(figure) == seen(dls.show_batch(4))
    assert figure.get_size_inches()[0] == pytest.approx(2 * dls.show_batch(4).get_size_inches()[0])
    figure.savefig(io.BytesIO())
    table = DataBlock(TransformBlock).dataloaders(list(range(9)), num_workers=0)
    assert len(table.show_batch(3, ncols=2).axes) == 1
    with pytest.raises(ConfigError, match=r"^show_batch\(ncols=0\): expected at least 1$"):
        dls.show_batch(ncols=0)


def test_a_batch_is_decoded_sample_by_sample() -> None:
    dls = loaders()
    batch = next(iter(dls.valid))
    decoded = dls.decode_batch(batch, max_n=2)
    assert [(float(wave[0, 0]), label) for wave, label in decoded] == [(20.0, "thing 2"), (21.0, "thing 0")]
    assert len(dls.decode_batch(batch)) == 9
    assert dls.c == 3


def test_loaders_move_to_another_device() -> None:
    dls = DataLoaders.from_dsets([(1.0, 2)] * 4, [(3.0, 4)], bs=2, num_workers=0)
    assert dls.to("meta") is dls
    assert {loader.device.type for loader in (dls.train, dls.valid)} == {dls.device.type} == {"meta"}
    assert dls.train.new().one_batch()[1].device.type == dls.valid.one_batch()[1].device.type == "meta"


def test_a_summary_shows_a_batch_too_if_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    block = DataBlock((TransformBlock, CategoryBlock), get_x=wave, get_y=lambda item: f"thing {item % 2}")
    assert block.summary(list(range(10))) is None
    assert len(block.summary(list(range(10)), show_batch=True).axes) == 4
    broken = block.new(get_y=lambda item: item / 0)
    assert broken.summary(list(range(10)), show_batch=True) is None
    assert "FAILED" in capsys.readouterr().out
