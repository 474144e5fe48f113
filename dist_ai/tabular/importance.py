"""What a trained model makes of each column: how much worse it is when the column says nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

from dist_ai.core.randomness import sample_keys
from dist_ai.core.types import TabularRow
from dist_ai.data import DataLoader, RowData
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner import Learner
from dist_ai.tabular.learner import reader_of

__all__ = ["Importance", "feature_importance"]


class Importance(NamedTuple):
    """How much the loss grows when a column says nothing.

    Attributes:
        column: its name.
        mean: by how much the loss grows, on average over the shufflings.
        std: the deviation over the shufflings; 0 for one.
    """

    column: str
    mean: float
    std: float


def feature_importance(
    learn: Learner, dl: DataLoader | None = None, *, num_repeats: int = 3, seed: int = 0
) -> list[Importance]:
    """Returns the permutation importance of each column the model sees, the most important first (Breiman, 2001).

    A column's values are shuffled over the rows and the loss is taken again, so that what other columns say of it too is not
    counted. The same on any number of processes. Collective.

    Args:
        learn: the trained model.
        dl: rows with targets; by default those of validation.
        num_repeats: how often each column is shuffled.
        seed: of the shuffling.

    Raises:
        ConfigError: `num_repeats` is below 1, or there are no validation rows.
        DataError: the loader has no table's rows, or no targets.
    """
    if num_repeats < 1:
        raise ConfigError(f"num_repeats={num_repeats}: expected at least 1")
    loader: Any = learn.evaluation_loader(dl)
    reader, data = reader_of(learn.dls), loader.dataset
    if not isinstance(data, RowData) or not data.targets:
        raise DataError(
            "feature_importance needs a table's rows with targets, in memory; give test_dl(..., with_labels=True)"
        )

    def loss_of(rows: TabularRow) -> float:
        return learn.validate(loader.new(dataset=data.with_rows(rows), shuffle=False))[0]

    plain_loss = loss_of(data.rows)
    found = []
    for place, name in enumerate([*reader.seen_cats, *reader.seen_conts]):
        growths = []
        for repeat in range(num_repeats):
            keys = sample_keys(seed=seed, epoch=place * num_repeats + repeat, samples=np.arange(len(data)))
            order = torch.from_numpy(np.argsort(keys, kind="stable")).to(data.rows.cats.device)
            growths.append(loss_of(_shuffled(data.rows, place, order)) - plain_loss)
        found.append(Importance(name, float(np.mean(growths)), float(np.std(growths))))
    return sorted(found, key=lambda each: -each.mean)


def _shuffled(rows: TabularRow, place: int, order: torch.Tensor) -> TabularRow:
    """Returns rows whose column at `place`, counted over categorical and continuous ones, is in another order."""
    num_cats = rows.cats.shape[1]
    cats, conts = rows
    if place < num_cats:
        cats = cats.clone()
        cats[:, place] = cats[order, place]
    else:
        conts = conts.clone()
        conts[:, place - num_cats] = conts[order, place - num_cats]
    return TabularRow(cats, conts)
