"""How a share becomes a batch: its samples are read, transformed one by one and put together."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch.utils.data import default_collate

from dist_ai.core.nested import map_tensors
from dist_ai.core.randomness import Draw, borrowed_generators, mix64_int, sample_keys
from dist_ai.core.transform import Pipeline
from dist_ai.data.collate import collate as stack
from dist_ai.data.collate import structure
from dist_ai.data.plan import Share, epoch_key
from dist_ai.data.table import Row
from dist_ai.errors import BadSampleError, ConfigError, DataError

__all__ = ["BadSamples", "Excerpt", "Fetched", "Fetcher", "received"]

BadSamples: TypeAlias = Literal["raise", "skip"]
"""What a sample that cannot be read does: raise an error that names it, or be skipped and counted."""


class Fetched(NamedTuple):
    """What came of a share.

    Attributes:
        batch: its batch.
        share: what is really in the batch, if not all that was asked for.
        skipped: a message for each sample that could not be read.
    """

    batch: Any
    share: Share | None = None
    skipped: tuple[str, ...] = ()

    def pin_memory(self) -> Fetched:
        """Returns the same in memory that a GPU reads by itself. torch's loader asks for it; alone it passes over dataclasses."""
        return self._replace(batch=map_tensors(torch.Tensor.pin_memory, self.batch))


def received(came: tuple[Share, Fetched], skipped: Counter[str]) -> tuple[Share, Any]:
    """Returns share and batch of what came; what was skipped is warned of once and counted in `skipped`."""
    share, fetched = came
    for message in fetched.skipped:
        if message not in skipped:
            warnings.warn(f"skipped: {message}", stacklevel=5)
        skipped[message] += 1
    return share if fetched.share is None else fetched.share, fetched.batch


@dataclass(frozen=True)
class Excerpt:
    """What one batch needs of a stream, by number, seen through pipelines as the items of a `Subset` are.

    Attributes:
        samples: what came out of the stream.
        spares: numbers of some that may take the place of one that cannot be read.
        pipelines: one for each element of a sample; none if the stream gives samples.
        split_idx: whose transforms run: 0 training's, 1 validation's.
    """

    samples: dict[int, Any]
    spares: tuple[int, ...] = ()
    pipelines: tuple[Pipeline, ...] = ()
    split_idx: int = 1

    def __getitem__(self, number: int) -> Any:
        item = self.samples[number]
        if not self.pipelines:
            return item
        return tuple(pipeline(item, split_idx=self.split_idx) for pipeline in self.pipelines)

    def __len__(self) -> int:
        return len(self.samples)

    def item(self, number: int) -> str:
        """Returns what a sample is in short, for messages."""
        return f"{self.samples[number]!r:.100}"


@dataclass
class Fetcher:
    """Makes the batch of a share, in this process or a worker: all that must be sent to a worker, and no device.

    With `skip_bad`, a sample that cannot be read is not an error. In training another sample of the data set takes its
    place, chosen by (seed, epoch, sample), so that a batch keeps its size and does not depend on the number of ranks. In
    validation it is left out. Neighbours are replaced by neighbours: those of a row group that is bad by those of another.
    With `alike` too, a sample that does not stack with most others is one of them; which are most is found out from a few
    of the data set, or of a stream's global batch, because it must not depend on who happens to share a rank's batch.
    """

    dataset: Any
    item_tfms: Pipeline
    collate: Callable[[list[Any]], Any]
    seed: int
    split_idx: int
    skip_bad: bool = False
    alike: bool = False
    _usual: tuple[Any, int] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        by_sample = len(self.item_tfms) > 0 or self.collate not in (stack, default_collate)
        self.whole_batches = hasattr(self.dataset, "fetch") and not by_sample
        if by_sample and not hasattr(self.dataset, "__getitem__"):
            raise ConfigError(
                f"{type(self.dataset).__name__} gives whole batches only, so neither item_tfms nor collate can work on its "
                "samples; use batch_tfms, or give it [i]"
            )

    def expect(self, share: Share) -> None:
        """Tells the data set what is soon loaded, if it wants to know."""
        if self.whole_batches and hasattr(self.dataset, "expect"):
            self.dataset.expect(torch.from_numpy(share.indices))

    def load(self, share: Share) -> Fetched:
        """Returns the batch.

        Raises:
            BadSampleError: a sample could not be made; names its item.
            DataError: the samples did not make a batch; names some of them.
        """
        if self.whole_batches:
            try:
                return Fetched(self.dataset.fetch(torch.from_numpy(share.indices)))
            except BadSampleError:
                if not self.skip_bad or not hasattr(self.dataset, "__getitem__"):
                    raise  # otherwise one by one, which tells the good from the bad
        samples, places, skipped = self._samples(share)
        if share.num_local == 0:  # it only runs along: who has the sample counts it
            skipped = ()
        indices = share.indices[places]
        try:
            batch = self.collate(samples)
        except Exception as error:
            what = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
            raise DataError(f"{what}. The samples are {', '.join(map(self._name, indices[:4].tolist()))}") from error
        if not skipped or self.split_idx == 0:
            return Fetched(batch, None, skipped)
        left = share._replace(
            indices=indices,
            positions=share.positions[places],
            keys=share.keys[places],
            num_local=0 if len(skipped) == len(share.indices) else min(share.num_local, len(places)),
        )
        return Fetched(batch, left, skipped)

    def _samples(self, share: Share) -> tuple[list[Any], list[int], tuple[str, ...]]:
        """Returns the samples, their places in the share, and what was skipped. Never no samples."""
        # Data sets and transforms that draw from the global generators (torchvision's v2) draw by sample too.
        seeds = sample_keys(seed=self.seed, epoch=share.epoch, samples=share.keys).tolist()
        samples: list[Any] = []
        places: list[int] = []
        skipped: list[str] = []
        with borrowed_generators() as seed:
            for place, index in enumerate(share.indices.tolist()):
                seed(seeds[place])
                key = int(share.keys[place])
                try:
                    sample = self._fitting(index, key, share.epoch)
                except BadSampleError as error:
                    if not self.skip_bad:
                        raise
                    skipped.append(str(error))
                    if self.split_idx != 0 and (samples or place + 1 < len(share.indices)):
                        continue
                    sample = self._another(index, key, share.epoch, error)
                samples.append(sample)
                places.append(place)
        return samples, places, tuple(skipped)

    def _another(self, index: int, key: int, epoch: int, error: BadSampleError) -> Any:
        """Returns a sample that can be read instead of `index`, at the first of some random distances that leads to one."""
        distances = epoch_key(self.seed, epoch)
        others = self._others()
        for attempt in range(_TRIES):
            try:
                return self._fitting(others[(index + mix64_int(distances + attempt)) % len(others)], key, epoch)
            except BadSampleError as another:
                error = another
        raise BadSampleError(f"{_TRIES + 1} samples in a row cannot be read; the last: {error}") from error

    def _others(self) -> Sequence[int]:
        """Returns the numbers of the samples that any rank can look at: of a stream, some of the global batch."""
        return self.dataset.spares if isinstance(self.dataset, Excerpt) else range(len(self.dataset))

    def _fitting(self, index: int, key: int, epoch: int) -> Any:
        """Returns a sample that stacks with the others, where others that do not are skipped."""
        sample = self._sample(index, key, epoch)
        if not (self.skip_bad and self.alike and self.collate in (stack, default_collate)):
            return sample
        if self._usual is None:
            self._usual = self._most_common()
        usual, example = self._usual
        if usual is not None and structure(sample) != usual:
            raise BadSampleError(
                f"{self._name(index)}: its structure {structure(sample)} is not that of most samples, such as "
                f"{self._name(example)}: {usual}; give them one size with an item transform such as Resize"
            )
        return sample

    def _most_common(self) -> tuple[Any, int]:
        """Returns the structure that most of a few samples from all over the data set have, and which one has it."""
        others = self._others()
        found: dict[Any, list[int]] = {}
        for index in sorted({others[len(others) * i // _FEW] for i in range(_FEW)}):
            try:
                found.setdefault(structure(self._sample(index, index, 0)), []).append(index)
            except BadSampleError:
                continue
        usual = max(found, key=lambda each: len(found[each]), default=None)
        return usual, found[usual][0] if usual is not None else 0

    def _sample(self, index: int, key: int, epoch: int) -> Any:
        try:
            sample = self.dataset[index]
            if len(self.item_tfms):
                # Outside training nothing is random: a prediction depends on its sample alone.
                draw = Draw(seed=self.seed, epoch=epoch, samples=key) if self.split_idx == 0 else None
                sample = self.item_tfms(sample, draw and draw.at("item_tfms"), split_idx=self.split_idx)
            if self.skip_bad and isinstance(sample, Row):
                dict(sample)  # read now: in the collation it would no longer be one sample's error
        except BadSampleError as error:  # it names a file itself; of bytes in a row it cannot
            of_a_row = isinstance(self._item(index), Row)
            raise BadSampleError(f"{self._name(index) if of_a_row else f'sample {index}'}: {error}") from error
        except ConfigError:  # the program's fault, not the sample's
            raise
        except Exception as error:
            raise BadSampleError(f"{self._name(index)}: {type(error).__name__}: {error}") from error
        return sample

    def _item(self, index: int) -> Any:
        """Returns what a sample is made from; None where the data set does not tell."""
        item = getattr(self.dataset, "item", None)
        return None if item is None else item(index)

    def _name(self, index: int) -> str:
        item = self._item(index)
        if item is None:
            return f"sample {index}"
        said = " ".join(str(item).split())  # an array's, or a text's, has lines
        longest = (
            _LONGEST // 4 if hasattr(item, "shape") else _LONGEST
        )  # numbers say little; a path says which it is by its end
        return f"sample {index} ({said if len(said) <= longest else said[:longest] + ' ...'})"


_FEW = 5
_LONGEST = 200  # characters of an item in a message
_TRIES = 20  # with half of the samples bad, one in a million of these searches fails
