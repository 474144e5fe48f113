"""What a trained model of ratings knows: items for a user, and the biases and factors that it has learned."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from dist_ai.collab.models import EmbeddingDotBias
from dist_ai.core.types import TabularRow
from dist_ai.data import ReadRows
from dist_ai.data.categories import Categories
from dist_ai.distributed.sharded import replicated_beside, whole
from dist_ai.errors import ConfigError, DataError, did_you_mean, require_whole
from dist_ai.export import load_export
from dist_ai.losses import activation

__all__ = ["Recommender", "several"]


class Recommender:
    """A trained model of ratings beside the names of its users and items.

    A name may be of another type than training had, as a file or a service writes it: "3" is 3, where no name is the text.

    Args:
        model: the model.
        reader: the input transform of its data, which knows the names.
        loss_func: the loss, for its activation.

    ```python
    Recommender.load("model").recommend("ann", 5, exclude=["Alien"])
    ```
    """

    def __init__(self, model: nn.Module, reader: ReadRows, loss_func: Any = None) -> None:
        self.model, self.reader, self.loss_func = model, reader, loss_func
        self.users, self.items = (reader.classes[name] for name in reader.seen_cats[:2])
        self._known_users, self._known_items = (Categories(names[1:]) for names in (self.users, self.items))

    @classmethod
    def load(cls, directory: str | Path) -> Recommender:
        """Returns the recommender of an exported model.

        Raises:
            ArtifactError: the export is missing or damaged.
            ConfigError: it is no model of users and items.
        """
        artifact = load_export(directory)
        reader = artifact.recipe.reads_tables
        if not isinstance(reader, ReadRows) or len(reader.seen_cats) != 2 or reader.seen_conts:
            raise ConfigError(f"{directory} holds no model of users and items, but a {type(artifact.model).__name__}")
        return cls(artifact.model, reader, artifact.loss_func)

    @torch.no_grad()
    def scores(self, user: Any, items: Sequence[Any] | None = None) -> torch.Tensor:
        """Returns the predicted rating of items for a user, (items,), on the CPU.

        Args:
            user: one that training did not see is taken for an average one.
            items: by default all that training saw, in the order of `items` after the first, the unknown one.

        Raises:
            DataError: an item is unknown; names the nearest. Or it is several users.
        """
        codes = torch.arange(1, len(self.items)) if items is None else self.codes(items)
        device = next(self.model.parameters()).device
        user_code = self.user_code(user)
        was_training = self.model.training
        self.model.eval()
        try:
            parts = [self._part(user_code, part.to(device)) for part in codes.split(_AT_ONCE)]
        finally:
            self.model.train(was_training)
        return torch.cat(parts)

    def recommend(self, user: Any, n: int = 10, *, exclude: Iterable[Any] | None = None) -> list[tuple[Any, float]]:
        """Returns the `n` items with the highest predicted rating for a user, and that rating, the best first.

        Args:
            user: one that training did not see gets what is rated best on average.
            n: how many, at most.
            exclude: items that are left out, such as those the user has seen; unknown ones do no harm.

        Raises:
            ConfigError: `n` is no whole number of at least 1.
            DataError: it is several users, or `exclude` is one item.
        """
        require_whole(n, f"recommend(n={n!r})", "items")
        excluded = self._codes(several(() if exclude is None else exclude), is_item=True)
        scores = self.scores(user)
        is_candidate = torch.ones(len(self.items), dtype=torch.bool).index_fill(0, torch.tensor([0, *excluded]), False)
        candidates = is_candidate.nonzero().squeeze(1)
        # Sorted as it is, NaN would be first.
        order = scores[candidates - 1].nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        best = candidates[order.topk(min(n, len(candidates))).indices].tolist()
        return [(self.items[code], scores[code - 1].item()) for code in best]

    def bias(self, items: Sequence[Any], *, is_item: bool = True) -> torch.Tensor:
        """Returns the biases of items, or of users, (n,): how they are rated whoever rates them.

        Collective where ranks have parts of the model.

        Raises:
            ConfigError: the model has no biases.
            DataError: one is unknown; names the nearest.
        """
        if not isinstance(self.model, EmbeddingDotBias):
            raise ConfigError(f"{type(self.model).__name__} has no biases; EmbeddingDotBias (use_nn=False) has")
        codes = self.codes(items, is_item=is_item)
        return _rows(self.model.i_bias if is_item else self.model.u_bias, codes).squeeze(1)

    def weight(self, items: Sequence[Any], *, is_item: bool = True) -> torch.Tensor:
        """Returns the factors of items, or of users, (n, factors).

        Collective where ranks have parts of the model.

        Raises:
            DataError: one is unknown; names the nearest.
        """
        return self._factors(self.codes(items, is_item=is_item), is_item)

    def similar(self, item: Any, n: int = 10, *, is_item: bool = True) -> list[tuple[Any, float]]:
        """Returns the `n` items, or users, whose factors are most like those of one, and the cosine between both, nearest first.

        Collective where ranks have parts of the model.

        Args:
            item: its name.
            n: how many, at most; the one itself is none of them.
            is_item: whether it is an item, and not a user.

        Raises:
            ConfigError: `n` is no whole number of at least 1.
            DataError: it is unknown; names the nearest.
        """
        require_whole(n, f"similar(n={n!r})", "items" if is_item else "users")
        [code] = self.codes([item], is_item=is_item).tolist()
        names = self.items if is_item else self.users
        own, *parts = (
            self._factors(codes, is_item) for codes in (torch.tensor([code]), *torch.arange(len(names)).split(_AT_ONCE))
        )
        cosines = torch.cat([functional.cosine_similarity(part, own, dim=1) for part in parts])
        cosines[[0, code]] = -torch.inf  # the unknown one, and itself
        best = cosines.topk(min(n, max(0, len(names) - 2)))
        return [(names[each], cosine) for each, cosine in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def codes(self, names: Sequence[Any], *, is_item: bool = True) -> torch.Tensor:
        """Returns the codes of items, or of users, int64 (n,).

        Raises:
            DataError: one is unknown; names the nearest.
        """
        known, names = self.items if is_item else self.users, several(names)
        found = self._codes(names, is_item=is_item)
        for name, code in zip(names, found, strict=True):
            if not code and name != known[0]:  # which is the unknown one
                nearest = did_you_mean(str(name), map(str, known))
                kind = "item" if is_item else "user"
                raise DataError(f"{kind} {name!r:.100} is none of the {len(known) - 1:,} of the training rows{nearest}")
        return torch.tensor(found, dtype=torch.int64)

    def user_code(self, user: Any) -> int:
        """Returns the code of a user; 0 for one that training did not see.

        Raises:
            DataError: it is several users.
        """
        return self._codes([_as_python(user)], is_item=False)[0]

    def _codes(self, names: Sequence[Any], *, is_item: bool) -> list[int]:
        import pandas as pd

        kind, known = ("item", self._known_items) if is_item else ("user", self._known_users)
        for name in names:
            if not isinstance(name, Hashable):
                raise DataError(f"{name!r:.60} is no {kind}, but a {type(name).__name__}; ask for one {kind} at a time")
        return known.codes(pd.Series(names, dtype=object)).tolist()

    def _part(self, user: int, items: torch.Tensor) -> torch.Tensor:
        cats = torch.stack([torch.full_like(items, user), items], 1)
        raw = self.model(TabularRow(cats, torch.empty(len(items), 0, device=items.device)))
        return activation(self.loss_func, raw).float().cpu()

    def _factors(self, codes: torch.Tensor, is_item: bool) -> torch.Tensor:
        model: Any = self.model
        return _rows(model.i_weight if is_item else model.u_weight, codes)


def _rows(table: nn.Embedding, codes: torch.Tensor) -> torch.Tensor:
    """Returns rows of a table, on the CPU."""
    weight = table.weight.detach()
    # Each rank looks up what it has of these rows; the whole table may be larger than a device.
    return whole(functional.embedding(replicated_beside(codes.to(weight.device), weight), weight)).cpu()


def several(names: Iterable[Any]) -> list[Any]:
    """Returns a list of names, which one name is not."""
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise DataError(f"{names!r:.60} is one name, and a list of them is expected: [{names!r:.60}]")
    return [*map(_as_python, names)]


def _as_python(name: Any) -> Any:
    """Returns the number in a tensor or an array, which would be told from all others by where it is."""
    return name.item() if isinstance(name, torch.Tensor | np.ndarray) and name.ndim == 0 else name


_AT_ONCE = 100_000  # items scored in one pass
