"""The Learner for ratings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import torch
from torch import nn

from dist_ai.collab.models import EmbeddingDotBias, EmbeddingNN
from dist_ai.collab.recommender import Recommender, several
from dist_ai.core.names import known_arguments
from dist_ai.data import DataLoaders, ReadRows, RowData
from dist_ai.errors import ConfigError, require_whole
from dist_ai.export import ModelSpec
from dist_ai.layers import embedding_size
from dist_ai.layers.activation import bounds_of
from dist_ai.layers.mlp import require_sizes
from dist_ai.learner import Learner, LearnerOptions, first_weights, register_learner

__all__ = ["CollabLearner", "collab_learner"]


@register_learner("embedding_dot_bias")
@register_learner("embedding_nn")
class CollabLearner(Learner):
    """A Learner that also says what its model knows of users and items; see `Recommender`, which an export has too."""

    _made: Recommender | None = None

    @property
    def recommender(self) -> Recommender:
        """What the model knows now."""
        now, made = (self.model, _reader_of(self.dls), self.loss_func), self._made
        # Its index of names is made once: for 100,000 items it takes longer than scoring them.
        if made is None or any(a is not b for a, b in zip((made.model, made.reader, made.loss_func), now, strict=True)):
            made = self._made = Recommender(*now)
        return made

    def bias(self, items: Sequence[Any], *, is_item: bool = True) -> torch.Tensor:
        """Returns the biases of items, or of users; see `Recommender.bias`."""
        return self.recommender.bias(items, is_item=is_item)

    def weight(self, items: Sequence[Any], *, is_item: bool = True) -> torch.Tensor:
        """Returns the factors of items, or of users; see `Recommender.weight`."""
        return self.recommender.weight(items, is_item=is_item)

    def similar(self, item: Any, n: int = 10, *, is_item: bool = True) -> list[tuple[Any, float]]:
        """Returns the `n` items whose factors are most like those of one; see `Recommender.similar`."""
        return self.recommender.similar(item, n, is_item=is_item)

    def recommend(
        self, user: Any, n: int = 10, *, exclude: Iterable[Any] = (), exclude_seen: bool | None = None
    ) -> list[tuple[Any, float]]:
        """Returns the `n` items with the highest predicted rating for a user, and that rating, the best first.

        Args:
            user: one that training did not see gets what is rated best on average.
            n: how many, at most.
            exclude: items that are left out.
            exclude_seen: leave out also what the user has in the training rows; by default where there are some, which a loaded
                Learner has not.

        Raises:
            ConfigError: `exclude_seen` is asked for where there are no training rows, or `n` is no whole number of at least 1.
        """
        seen = self._seen(user, required=exclude_seen is True) if exclude_seen is not False else []
        return self.recommender.recommend(user, n, exclude=several(exclude) + seen)

    def _seen(self, user: Any, *, required: bool) -> list[Any]:
        rows = self.dls.train_ds if self.dls.has_data else None
        if not isinstance(rows, RowData):
            if required:
                raise ConfigError(
                    "exclude_seen=True needs the training rows, which a loaded Learner has not; give exclude="
                )
            return []
        recommender = self.recommender
        cats, code = rows.rows.cats, recommender.user_code(user)
        return [recommender.items[item] for item in cats[cats[:, 0] == code, 1].tolist()] if code else []


@known_arguments(LearnerOptions)
def collab_learner(
    dls: DataLoaders,
    n_factors: int = 50,
    *,
    use_nn: bool = False,
    layers: Sequence[int] | None = None,
    emb_szs: Mapping[str, int] | None = None,
    y_range: tuple[float, float] | None = None,
    sparse: bool = False,
    config: Mapping[str, Any] | None = None,
    **options: Unpack[LearnerOptions],
) -> CollabLearner:
    """Returns a Learner of ratings.

    Args:
        dls: the ratings, as `CollabDataLoaders` gives them.
        n_factors: numbers for each user and item, of `EmbeddingDotBias`; of `EmbeddingNN` the size of its hidden layer.
        use_nn: an `EmbeddingNN` instead.
        layers: sizes of its hidden layers; by default one, of `n_factors`.
        emb_szs: numbers of its embeddings by column, where the rule (`embedding_size`) is not wanted.
        y_range: (low, high) that predicted ratings stay within; a little wider than the ratings is best.
        sparse: gradients of only the users and items of a batch, for ``opt_func=torch.optim.SparseAdam``, which takes no `wd`;
            not for tables that ranks share.
        config: more arguments of `EmbeddingNN`: ``{"ps": 0.1}``.
        options: ``wd=0.1``, ``metrics=mae`` and more; see `Learner`.

    The first weights depend on `dls.seed` only.

    Raises:
        ConfigError: an argument of the other model, or loaders of other data.
    """
    reader = _reader_of(dls)
    require_whole(n_factors, f"n_factors={n_factors!r}", "factors")
    if layers is not None:
        require_sizes("layers", layers)
    for kind, given_by_name in (("emb_szs", emb_szs), ("config", config)):
        if not isinstance(given_by_name, Mapping | None):
            raise ConfigError(f"{kind}={given_by_name!r:.100}: expected a dict by name, such as {_EXAMPLES[kind]}")
    sizes = [len(reader.classes[name]) for name in reader.seen_cats]
    given = {"layers": layers, "emb_szs": emb_szs, "config": config}
    if not use_nn and (needless := [name for name, value in given.items() if value is not None]):
        raise ConfigError(f"{needless[0]} is for the model with hidden layers; give use_nn=True, or leave it out")
    if use_nn and sparse:
        raise ConfigError("sparse=True is for the dot product, all of whose weights are embeddings; leave use_nn out")
    bounds = bounds_of(y_range)
    for name, size in (emb_szs or {}).items():
        if name not in reader.seen_cats:
            raise ConfigError(f"emb_szs names {name!r}, and the columns are {' and '.join(reader.seen_cats)}")
        require_whole(size, f"emb_szs={{{name!r}: {size!r}}}", "numbers")
    arguments: dict[str, Any]
    if use_nn:
        numbers = [
            (emb_szs or {}).get(name, embedding_size(n)) for name, n in zip(reader.seen_cats, sizes, strict=True)
        ]
        arguments = {
            "emb_szs": [list(pair) for pair in zip(sizes, numbers, strict=True)],
            "layers": [n_factors] if layers is None else list(layers),
            "y_range": bounds,
            **(config or {}),
        }
    else:
        arguments = {"n_factors": n_factors, "n_users": sizes[0], "n_items": sizes[1], "y_range": bounds}
        arguments |= {"sparse": True} if sparse else {}
    with first_weights(dls):
        try:
            model: nn.Module = (EmbeddingNN if use_nn else EmbeddingDotBias)(**arguments)
        except TypeError as error:
            raise ConfigError(f"config={dict(config or {})}: {error}; see EmbeddingNN for its arguments") from error
    builder = "embedding_nn" if use_nn else "embedding_dot_bias"
    return CollabLearner(dls, model, spec=ModelSpec(builder, arguments), **options)


_EXAMPLES = {"emb_szs": '{"user": 16}', "config": '{"ps": 0.1}'}


def _reader_of(dls: DataLoaders) -> ReadRows:
    reader = dls.recipe.reads_tables if isinstance(dls, DataLoaders) and dls.has_recipe else None
    if not isinstance(reader, ReadRows) or len(reader.seen_cats) != 2 or reader.seen_conts:
        raise ConfigError("these loaders are not of users, items and ratings; make them with CollabDataLoaders")
    return reader
