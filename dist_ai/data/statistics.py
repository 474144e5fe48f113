"""Statistics of a data set: how large its parts are, what the samples look like, how the classes are balanced.

```python
print(dls.describe())  # a table
dls.describe().to_plain()  # the same as plain data
plot_class_balance(dls).savefig("classes.png")
```

What is said of a value is chosen by its type: `measure` gives a few facts of one value, and the facts of many are put
together by what they are: of numbers the range, of words how often each comes, of `Moments` the mean and the deviation. Rows
of a table tell the facts of each column themselves (`RowData.column_facts`).
Large data sets cost no more than small ones: a sample of them is looked at, the same every time, and the table says so.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dist_ai.core.dispatch import Dispatch
from dist_ai.core.transform import Pipeline
from dist_ai.core.types import (
    TensorCategory,
    TensorMultiCategory,
    TensorRegression,
    TensorSeries,
    TensorText,
    plain,
)
from dist_ai.data.datasets import Datasets, Subset, TensorData
from dist_ai.data.plan import Permutation, epoch_key
from dist_ai.data.table import missing
from dist_ai.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DatasetStats", "Moments", "PartStats", "class_counts", "dataset_stats", "measure", "plot_class_balance"]

measure = Dispatch("measure")
"""(value, source) -> a few facts of one value, by name: numbers, words, `Counter`s, `Moments`; None for what is missing. The
source is what it was read from, such as its file, or None."""


@dataclass(frozen=True)
class Moments:
    """Sums from which the mean and the deviation of each channel follow.

    >>> both = Moments.of(torch.zeros(1, 4)) + Moments.of(torch.ones(1, 4))
    >>> both.mean, both.std
    ([0.5], [0.5])
    """

    num: int
    total: torch.Tensor
    squares: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> Moments:
        """Returns the moments of values (channels, ...)."""
        flat = plain(values).double().flatten(1)
        return cls(flat.shape[1], flat.sum(1), flat.square().sum(1))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.num + other.num, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> list[float]:
        """The mean of each channel."""
        return (self.total / self.num).tolist()

    @property
    def std(self) -> list[float]:
        """The standard deviation of each channel, over all its values."""
        variance = self.squares / self.num - (self.total / self.num).square()
        return variance.clamp_min(0).sqrt().tolist()


@dataclass
class PartStats:
    """What is known of one part of a data set.

    Attributes:
        name: "train", "valid", "part 2", ...
        num_samples: how many samples it has.
        num_looked_at: how many of them were looked at.
        facts: for each element of a sample ("input", "target") the facts of its values put together, plain data.
        bad: how often each reason came why a sample could not be made, the first few.
        num_bad: how many could not, of those that were looked at.
    """

    name: str
    num_samples: int
    num_looked_at: int = 0
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    num_bad: int = 0


@dataclass
class DatasetStats:
    """What is known of a data set; its `repr` is a table.

    Attributes:
        parts: for each part what its samples look like.
        classes: for each part how often each class comes, in the order of the vocabulary; empty without classes.
        num_labels: for each part how many samples that was counted over.
    """

    parts: list[PartStats]
    classes: dict[str, dict[str, int]]
    num_labels: dict[str, int]

    @property
    def channel_stats(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of each channel of the training images: what `Normalize` takes.

        Raises:
            DataError: there are no images, or they have different numbers of channels.
        """
        for facts in self.parts[0].facts.values():
            if isinstance(found := facts.get("channels, 0 to 1"), dict):
                return found["mean"], found["std"]
        raise DataError("these samples have no images, so there is no mean and deviation of their channels")

    def to_plain(self) -> dict[str, Any]:
        """Returns all of it as plain data, for JSON."""
        return {
            part.name: {
                "samples": part.num_samples,
                "looked at": part.num_looked_at,
                "bad": part.num_bad,
                **part.facts,
                **({"classes": self.classes[part.name]} if part.name in self.classes else {}),
            }
            for part in self.parts
        }

    def __repr__(self) -> str:
        from rich.console import Console

        console = Console(file=io.StringIO(), width=110)
        console.print(self._overview())
        if any(self.classes.values()):
            console.print()
            console.print(self._balance())
        for part in self.parts:
            for reason in part.bad:
                console.print(f"{part.name}: {reason}", markup=False, highlight=False)
        file = console.file
        assert isinstance(file, io.StringIO)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _overview(self) -> Any:
        table = _table("", self.parts)
        table.add_row("samples", *(f"{part.num_samples:,}" for part in self.parts))
        if any(part.num_looked_at < part.num_samples for part in self.parts):
            table.add_row("  looked at", *(f"{part.num_looked_at:,}" for part in self.parts))
        if any(part.num_bad for part in self.parts):
            table.add_row("  cannot be read", *(f"{part.num_bad:,}" for part in self.parts))
        for element in dict.fromkeys(name for part in self.parts for name in part.facts):
            facts = [part.facts.get(element, {}) for part in self.parts]
            table.add_row(f"[bold]{element}[/]", *("" for _ in self.parts))
            for name in dict.fromkeys(name for each in facts for name in each):
                said = (_said(each.get(name), part.num_looked_at) for part, each in zip(self.parts, facts, strict=True))
                table.add_row(f"  {name}", *said)
        return table

    def _balance(self) -> Any:
        table = _table("class", self.parts)
        names = list(dict.fromkeys(name for counts in self.classes.values() for name in counts))
        for name in names[:_MAX_ROWS]:
            table.add_row(_escaped(name), *(self._share(part.name, name) for part in self.parts))
        if len(names) > _MAX_ROWS:
            table.add_row(f"… {len(names) - _MAX_ROWS} more", *("" for _ in self.parts))
        if any(self.num_labels.get(part.name, 0) < part.num_samples for part in self.parts):
            counted = (f"{self.num_labels.get(part.name, 0):,}" for part in self.parts)
            table.add_row("counted over", *counted)
        return table

    def _share(self, part: str, name: str) -> str:
        count = self.classes.get(part, {}).get(name, 0)
        return f"{count:,} ({count / max(1, self.num_labels.get(part, 0)):.1%})"


_MAX_ROWS = 30


def dataset_stats(source: Any, *, n_inp: int | None = None, max_samples: int = 1000, seed: int = 0) -> DatasetStats:
    """Returns what a data set looks like, part by part.

    Args:
        source: `DataLoaders`, a `DataLoader`, `Datasets`, or one data set; of a `DataBlock`, what its `datasets` returns.
        n_inp: how many elements of a sample are inputs; by default what the loaders say, else all but the last.
        max_samples: how many samples of a part are made and looked at, at most, drawn by `seed`. Labels are cheaper, and
            counted over a hundred times as many.

    Samples are as they are before the item transforms: images have their own sizes. What cannot be read is counted.

    >>> stats = dataset_stats([(1.5, "a cat"), (2.5, "a dog")])
    >>> stats.parts[0].facts["input"]["value"]["max"], stats.parts[0].facts["target"]["words"]["min"]
    (2.5, 2.0)
    """
    parts = _parts(source)
    counts, labels = {}, {}
    found = []
    for name, dataset in parts:
        found.append(_looked_at(name, dataset, n_inp or getattr(source, "n_inp", None), max_samples, seed))
        classes, num = _counted(
            dataset, n_inp or getattr(source, "n_inp", None), _LABELS * max_samples, seed, _of_targets(source)
        )
        if classes:
            counts[name], labels[name] = classes, num
    return DatasetStats(found, counts, labels)


def class_counts(source: Any, *, max_samples: int = 100_000, seed: int = 0) -> dict[str, dict[str, int]]:
    """Returns for each part how often each class comes, in the order of the vocabulary.

    Args:
        source, seed: see `dataset_stats`.
        max_samples: of how many samples of a part the labels are looked at, at most.

    Raises:
        DataError: the targets are no classes.
    """
    counts = {
        name: _counted(dataset, getattr(source, "n_inp", None), max_samples, seed, _of_targets(source))[0]
        for name, dataset in _parts(source)
    }
    if not any(counts.values()):
        raise DataError("the targets of these samples are no classes, so there is no balance of them")
    return counts


def plot_class_balance(
    source: Any,
    *,
    max_classes: int = 40,
    max_samples: int = 100_000,
    seed: int = 0,
    figsize: tuple[float, float] | None = None,
) -> Figure:
    """Returns a figure of how often each class comes in each part of a data set, the most frequent one first.

    Args:
        source, max_samples, seed: see `class_counts`.
        max_classes: how many are drawn, at most: the most frequent and the rarest ones.
        figsize: (width, height) in inches.

    Raises:
        DataError: the targets are no classes.
    """
    from dist_ai.core.figures import Picture, shortened

    counts = class_counts(source, max_samples=max_samples, seed=seed)
    first = next(iter(counts.values()))
    names = sorted(dict.fromkeys(name for each in counts.values() for name in each), key=lambda n: -first.get(n, 0))
    left_out = len(names) - max_classes
    if left_out > 0:
        names = names[: max_classes - max_classes // 2] + names[len(names) - max_classes // 2 :]
    height = 0.9 + 0.16 * len(names) * len(counts) + 0.1 * len(names)
    figure = Picture(figsize=figsize or (7, height), layout="constrained")
    axes = figure.add_subplot()
    thick = 0.8 / len(counts)
    for k, (part, each) in enumerate(counts.items()):
        places = [i + (k - (len(counts) - 1) / 2) * thick for i in range(len(names))]
        bars = axes.barh(places, [each.get(name, 0) for name in names], height=thick * 0.9, label=part)
        axes.bar_label(bars, fmt="{:,.0f}", fontsize=7, padding=2)
    labels = ["".join(shortened(name, width=30, lines=1)) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=8, parse_math=False)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel("samples", fontsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if left_out > 0:
        axes.set_title(f"{left_out:,} classes between them are left out", fontsize=8)
        axes.axhline(max_classes - max_classes // 2 - 0.5, color="gray", linestyle=":", linewidth=1)
    if len(counts) > 1:
        figure.legend(loc="outside lower center", ncols=len(counts), fontsize=8, frameon=False)
    return figure


# ------------------------------------------------------------------------------------ facts of one value


@measure.register(object)
def _(value: Any, source: Any) -> dict[str, Any]:
    return {}


@measure.register(int | float | np.number)
def _(value: Any, source: Any) -> dict[str, Any]:
    return {"value": None if missing(value) else float(value)}


@measure.register(bool | np.bool_)
def _(value: Any, source: Any) -> dict[str, Any]:
    return {"value": str(bool(value))}


@measure.register(str | bytes)
def _(value: Any, source: Any) -> dict[str, Any]:
    if not value:
        return {"characters": None}
    return {"characters": len(value), **({"words": len(value.split())} if isinstance(value, str) else {})}


@measure.register(torch.Tensor)
def _(value: torch.Tensor, source: Any) -> dict[str, Any]:
    return {"shape": " × ".join(map(str, value.shape)) or "one number", **_range(value)}


@measure.register(np.ndarray)
def _(value: np.ndarray, source: Any) -> dict[str, Any]:
    shape = " × ".join(map(str, value.shape))
    return {"shape": shape, **(_range(torch.from_numpy(value)) if value.dtype.kind in "biuf" else {})}


@measure.register(TensorCategory)
def _(value: TensorCategory, source: Any) -> dict[str, Any]:
    return {} if value.dim() == 0 else {"labels": value.numel()}


@measure.register(TensorMultiCategory)
def _(value: TensorMultiCategory, source: Any) -> dict[str, Any]:
    return {"labels": int((value != 0).sum())}


@measure.register(TensorRegression)
def _(value: TensorRegression, source: Any) -> dict[str, Any]:
    numbers = plain(value).flatten().tolist()
    return {"value": numbers[0]} if len(numbers) == 1 else {f"value {i}": each for i, each in enumerate(numbers[:20])}


@measure.register(TensorText)
def _(value: TensorText, source: Any) -> dict[str, Any]:
    return {"tokens": value.shape[-1]}


@measure.register(TensorSeries)
def _(value: TensorSeries, source: Any) -> dict[str, Any]:
    channels = value.shape[-2] if value.dim() > 1 else 1
    return {"channels": channels, "length": value.shape[-1], **_range(value)}


def _range(value: torch.Tensor) -> dict[str, Any]:
    """Returns the least and the greatest number, and how many are not finite where some are not."""
    numbers = plain(value).detach().cpu()
    if not numbers.numel() or numbers.is_complex():
        return {}
    numbers = numbers.double()
    finite = numbers[numbers.isfinite()]
    ends = {"least": finite.min().item(), "greatest": finite.max().item()} if finite.numel() else {}
    return {**ends, "not finite": numbers.numel() - finite.numel()}


# ------------------------------------------------------------------------------------ of many


def _parts(source: Any) -> list[tuple[str, Any]]:
    """Returns the parts of a data set, by name."""
    if isinstance(source, Datasets):
        names = ["train", "valid", *(f"part {k}" for k in range(2, len(source.subsets)))]
        return list(zip(names, source.subsets, strict=False))
    if hasattr(source, "train") and hasattr(source, "valid"):  # DataLoaders, which are made of what is here
        loaders = {"train": source.train, **({} if source.valid is None else {"valid": source.valid})}
        if streams := [name for name, loader in loaders.items() if not hasattr(loader, "dataset")]:
            raise DataError(
                f"the {streams[0]} samples are only iterated over, and statistics choose some by number; give a list of them"
            )
        return [(name, loader.dataset) for name, loader in loaders.items()]
    dataset = getattr(source, "dataset", source)
    return [({0: "train", 1: "valid"}.get(getattr(dataset, "split_idx", -1), "all"), dataset)]


def _chosen(num: int, most: int, seed: int) -> list[int]:
    """Returns the numbers of at most so many samples, drawn by the seed, in order."""
    if num <= most:
        return list(range(num))
    return sorted(Permutation(num, key=epoch_key(seed, 0))(np.arange(most, dtype=np.int64)).tolist())


def _looked_at(name: str, dataset: Any, n_inp: int | None, most: int, seed: int) -> PartStats:
    chosen = _chosen(len(dataset), most, seed)
    part = PartStats(name, len(dataset), len(chosen))
    seen: dict[str, dict[str, list[Any]]] = {}
    if (of_columns := getattr(dataset, "column_facts", None)) is not None:
        with suppress(Exception):  # of a bad row: which one it is shows where they are made one by one
            seen = of_columns(chosen)
    good: list[int] = []
    for i in chosen if not seen else ():
        try:
            elements = list(_elements(dataset, i))
        except Exception as error:
            part.num_bad += 1
            if len(part.bad) < _MAX_REASONS:
                what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
                part.bad.append(f"sample {i}: {what}"[:300])
            continue
        good.append(i)
        for element, value, source in _flat(elements, n_inp):
            facts = seen.setdefault(element, {})
            facts.setdefault("kind", []).append(None if missing(value) else type(value).__name__)
            for fact, each in measure(value, source).items():
                facts.setdefault(fact, []).append(each)
    if part.num_bad and good and of_columns is not None:
        seen = of_columns(good) or seen
    part.facts = {
        element: {fact: put for fact, values in facts.items() if (put := _together(values)) is not None}
        for element, facts in seen.items()
    }
    return part


_MAX_REASONS = 5


def _elements(dataset: Any, i: int) -> Iterator[tuple[Any, Any]]:
    """Yields each element of sample `i` with what it was read from."""
    if isinstance(dataset, Subset):
        item = dataset.item(i)
        if not dataset.by_element:
            sample, source = _with_source(dataset.pipelines[0], item, dataset.split_idx)
            for element in sample if type(sample) in (tuple, list) else (sample,):
                yield element, source
            return
        for pipeline in dataset.pipelines:
            yield _with_source(pipeline, item, dataset.split_idx)
        return
    sample = dataset[i] if hasattr(dataset, "__getitem__") else dataset.fetch(torch.tensor([i]))
    for element in sample if type(sample) in (tuple, list) else (sample,):
        yield element, None


def _with_source(pipeline: Pipeline, item: Any, split_idx: int) -> tuple[Any, Any]:
    """Returns what a pipeline makes of an item, and the last path or text on the way."""
    source = None
    for tfm in pipeline.tfms:
        if tfm.split_idx in (None, split_idx):
            source = item if isinstance(item, str) or hasattr(item, "__fspath__") else source
            item = tfm(item)
    return item, source


def _flat(elements: Sequence[tuple[Any, Any]], n_inp: int | None) -> Iterator[tuple[str, Any, Any]]:
    """Yields each element under its name; those of a mapping or a named tuple each under one of their own."""
    num_inputs = max(1, len(elements) - 1) if n_inp is None else n_inp
    for k, (value, source) in enumerate(elements):
        kind, place = ("input", k) if k < num_inputs else ("target", k - num_inputs)
        several = num_inputs > 1 if kind == "input" else len(elements) - num_inputs > 1
        name = f"{kind} {place}" if several else kind
        fields = value._asdict() if hasattr(value, "_fields") else value
        if isinstance(fields, Mapping):
            for key in fields:
                yield f"{name}: {key}", fields[key], source
        else:
            yield name, value, source


def _together(values: list[Any]) -> Any:
    """Returns the facts of many values as plain data; None where there is nothing to say."""
    there = [
        value for value in values if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    ]
    lacking = {"missing": len(values) - len(there)} if len(there) < len(values) else {}
    if not there:
        return lacking or None
    if isinstance(there[0], Moments):
        if not all(isinstance(each, Moments) and len(each.total) == len(there[0].total) for each in there):
            return None
        total = there[0]
        for each in there[1:]:
            total = total + each
        return {"mean": total.mean, "std": total.std}
    if all(isinstance(value, int | float) for value in there):
        quantiles = np.quantile(np.asarray(there, dtype=float), (0, 0.1, 0.5, 0.9, 1)).tolist()
        return {**dict(zip(("min", "10 %", "median", "90 %", "max"), quantiles, strict=True)), **lacking}
    counts: Counter[str] = Counter()
    for each in there:
        counts.update(each if isinstance(each, Counter) else [str(each)])
    others = {"others": len(counts) - _MAX_COUNTED} if len(counts) > _MAX_COUNTED else {}
    return {"counts": dict(counts.most_common(_MAX_COUNTED)), **others, **lacking}


_MAX_COUNTED = 20


def _of_targets(source: Any) -> list[Any]:
    """Returns the transforms of a loader's targets: rows of tables have theirs made beforehand, and know no class by name."""
    targets = source.recipe.targets if getattr(source, "has_recipe", False) else []
    return [tfm for pipeline in targets for tfm in pipeline.tfms]


def _counted(
    dataset: Any, n_inp: int | None, most: int, seed: int, known: Sequence[Any] = ()
) -> tuple[dict[str, int], int]:
    """Returns how often each class comes in the first target that has classes, and over how many samples.

    Args:
        known: transforms that may have the names of the classes, where the data set has none.
    """
    if not (isinstance(dataset, TensorData) or _is_by_element(dataset)):
        most = max(1, most // _LABELS)  # a label alone cannot be had, and whole samples may be dear
    chosen = _chosen(len(dataset), most, seed)
    place = _place_of_classes(dataset, n_inp, chosen)
    if place is None:
        return {}, 0
    counts: Counter[int] = Counter()
    num_counted = 0
    for i in chosen:
        if (classes := _classes_in(_target(dataset, i, place))) is not None:
            counts.update(classes)
            num_counted += 1
    pipelines = dataset.pipelines if isinstance(dataset, Subset) else []
    tfms = [
        tfm
        for pipeline in (pipelines[place : place + 1] if _is_by_element(dataset) else pipelines)
        for tfm in pipeline.tfms
    ]
    if vocab := next(filter(None, (getattr(tfm, "vocab", None) for tfm in [*tfms, *known])), None):
        return {str(name): counts[k] for k, name in enumerate(vocab)}, num_counted
    # Numbers without names are classes if they are few.
    return ({str(k): counts[k] for k in sorted(counts)}, num_counted) if len(counts) <= _FEW_CLASSES else ({}, 0)


_LABELS = 100  # times as many labels as samples are looked at
_FEW_CLASSES = 100


def _place_of_classes(dataset: Any, n_inp: int | None, chosen: Sequence[int]) -> int | None:
    """Returns which element of a sample is the first target that has classes, going by the first sample that can be made."""
    for i in chosen[:_FEW_CLASSES]:
        try:
            num = len(dataset.pipelines) if _is_by_element(dataset) else len(list(_elements(dataset, i)))
        except Exception:  # this sample is a bad one
            continue
        targets = range(max(1, num - 1) if n_inp is None else n_inp, num)
        made = {place: _target(dataset, i, place) for place in targets}
        if all(target is None for target in made.values()):
            continue
        return next((place for place, target in made.items() if _classes_in(target) is not None), None)
    return None


def _target(dataset: Any, i: int, place: int) -> Any:
    """Returns one element of a sample, made alone where that can be; None if it cannot be made."""
    try:
        if _is_by_element(dataset):
            return dataset.pipelines[place](dataset.item(i), split_idx=dataset.split_idx)
        return dataset[i][place]
    except Exception:  # counted, and named, where whole samples are looked at
        return None


def _is_by_element(dataset: Any) -> bool:
    """Returns whether one element of a sample can be had without the others."""
    return isinstance(dataset, Subset) and dataset.by_element


def _classes_in(target: Any) -> list[int] | None:
    """Returns the classes of a target; None if it has none."""
    if isinstance(target, TensorMultiCategory):
        return plain(target).flatten().nonzero().flatten().tolist()
    if isinstance(target, torch.Tensor) and target.dim() == 0 and not isinstance(target, TensorRegression):
        target = target.item()
    is_class = isinstance(target, int | np.integer) and not isinstance(target, bool)
    return [int(target)] if is_class else None


# ------------------------------------------------------------------------------------ in words


def _table(title: str, parts: Sequence[PartStats]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.HORIZONTALS, show_edge=False)
    table.add_column(title)
    for part in parts:
        table.add_column(part.name, overflow="fold")
    return table


def _said(fact: Any, num: int) -> str:
    """Returns a fact of so many samples in a few words."""
    if not fact:
        return ""
    lacking = f", {fact['missing']:,} missing ({fact['missing'] / max(1, num):.1%})" if fact.get("missing") else ""
    if "mean" in fact:
        return "\n".join(f"{name} {', '.join(f'{number:.3f}' for number in fact[name])}" for name in ("mean", "std"))
    if "min" in fact:
        low, middle, high = (f"{fact[each]:,.5g}" for each in ("min", "median", "max"))
        if low == high:
            return low + lacking
        return (
            f"{low} … {high}"
            + (f" (median {middle})" if middle not in (low, high) and "10 %" in fact else "")
            + lacking
        )
    if "counts" in fact:
        common = list(fact["counts"].items())
        if len(common) == 1:
            return _escaped(common[0][0]) + lacking
        rest = f", … {len(common) - 4 + fact.get('others', 0)} more" if len(common) > 4 else ""
        return _escaped(", ".join(f"{name}: {count:,}" for name, count in common[:4]) + rest) + lacking
    return lacking.removeprefix(", ")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
