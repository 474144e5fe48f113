"""What every loader does, whatever its samples come from."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

import torch

from dist_ai.core.names import missing_attribute
from dist_ai.core.transform import Pipeline, Transform
from dist_ai.data.device import DeviceStage, usable
from dist_ai.data.plan import Share
from dist_ai.distributed.environment import World, current_world
from dist_ai.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dist_ai.data.recipe import SampleRecipe

__all__ = ["BaseLoader", "Tfms", "as_list", "check_batch_size"]

Tfms = Iterable[Transform | type[Transform] | Callable[[Any], Any]] | Transform


class BaseLoader:
    """Global batches, dealt out to the ranks, on this rank's device.

    Args:
        given: the arguments of the loader by name, for `new`.
        split_idx: 0 if training transforms run, 1 if validation ones.

    Raises:
        ConfigError: one that cannot work.
    """

    def __init__(self, given: dict[str, Any], *, split_idx: int) -> None:
        check_batch_size("bs", given["bs"])
        if given["num_workers"] is not None:
            _check_whole("num_workers", given["num_workers"], 0, "expected 0 (load in this process) or more")
        if given["bad_samples"] not in ("raise", "skip"):
            raise ConfigError(f"bad_samples={given['bad_samples']!r}: expected 'raise' or 'skip'")
        self._given = given
        self.world: World = current_world(given["world"])
        self.bs: int = given["bs"]
        self.drop_last: bool = given["drop_last"]
        self.seed: int = given["seed"] or 0
        self.bad_samples = given["bad_samples"]
        self.split_idx = split_idx
        self.device = self.world.device if given["device"] is None else usable(given["device"])
        self.stage = DeviceStage(self.device, as_list(given["batch_tfms"]), seed=self.seed, split_idx=split_idx)
        self.item_tfms = Pipeline(as_list(given["item_tfms"]))
        for tfm in (*self.item_tfms.tfms, *self.stage.pipeline.tfms):
            _refuse_set_up(tfm)
        self.skipped: Counter[str] = Counter()
        self.recipe: SampleRecipe | None = None
        self.n_inp = 1
        self._epoch = 0

    def new(self, **changes: Any) -> Self:
        """Returns a loader made with this one's arguments, and batch transforms that were added to it, but for `changes`."""
        made = type(self)(**{**self._given, "batch_tfms": self.stage.pipeline.tfms, **changes})
        made.recipe, made.n_inp = self.recipe, self.n_inp
        made.deal_out_to(self.world)
        return made

    def deal_out_to(self, world: World) -> None:
        """Has the batches from now on be dealt out to these ranks, unless the loader was given a world of its own."""
        if self._given["world"] is None:
            self.world = world

    @abstractmethod
    def in_order(self) -> Self:
        """Returns a loader of the same samples as validation sees them: in order, all of them and not augmented."""

    def __iter__(self) -> Iterator[Any]:
        """Yields this rank's batches of the next epoch, on the device."""
        epoch, self._epoch = self._epoch, self._epoch + 1
        return (batch for _, batch in self.batches(epoch))

    @abstractmethod
    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[tuple[Share, Any]]:
        """Yields (share, batch) for this rank, from global batch `start` of the epoch on."""

    @abstractmethod
    def one_batch(self) -> Any:
        """Returns the first batch of epoch 0, made in this process."""

    def show_batch(
        self,
        max_n: int = 9,
        *,
        unique: bool = False,
        nrows: int | None = None,
        ncols: int | None = None,
        figsize: tuple[float, float] | None = None,
    ) -> Figure:
        """Returns a figure of the first samples; see `DataLoaders.show_batch`."""
        from dist_ai.data.looking import figure_of  # which looks at what is made of this

        return figure_of(self, self.recipe, self.n_inp, max_n, unique=unique, nrows=nrows, ncols=ncols, figsize=figsize)  # type: ignore[arg-type]  # there are no others than AnyLoader

    @property
    @abstractmethod
    def num_samples(self) -> int | None:
        """Number of samples in an epoch, over all ranks; None if only the end tells."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of global batches in an epoch."""

    def in_words(self) -> str:
        """Returns what an epoch gives, in words: ``32 samples in 4 batches of 8``."""
        if self.num_samples is None:
            return f"samples of a stream, in batches of {self.bs:,}"
        batches = "1 batch" if len(self) == 1 else f"{len(self):,} batches"
        return f"{self.num_samples:,} samples in {batches} of {self.bs:,}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.in_words()})"

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def to(self, device: torch.device | str) -> Self:
        """Has the batches from now on be on another device; returns this loader."""
        self.device = self.stage.device = usable(device)
        self._given["device"] = self.device
        return self


def as_list(tfms: Tfms) -> list[Any]:
    """Returns transforms as a list: one, or several, as a user may give them."""
    return [tfms] if isinstance(tfms, Transform) or callable(tfms) else list(tfms)


def _refuse_set_up(tfm: Transform) -> None:
    """Refuses a user's transform that would wait for a set-up which does not come; ours are told what they would learn."""
    setups = getattr(type(tfm), "setups", None)
    if setups is not None and not setups.__module__.startswith("dist_ai."):
        raise ConfigError(
            f"{type(tfm).__name__}.setups would not be called: transforms of samples and batches are not set up, only those of a "
            "block or of Datasets, which see the training items; give it what it learns as an argument"
        )


def check_batch_size(name: str, value: Any) -> None:
    """Raises `ConfigError` if `value` is no number of samples for a batch."""
    _check_whole(name, value, 1, "a batch has at least 1 sample")


def _check_whole(name: str, value: Any, least: int, otherwise: str) -> None:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ConfigError(f"{name}={value!r}: expected a whole number")
    if value < least:
        raise ConfigError(f"{name}={value!r}: {otherwise}")
