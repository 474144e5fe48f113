"""The Learner for tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from torch import nn

from dist_ai.core.names import known_arguments
from dist_ai.data import Categorize, DataLoaders, ReadRows
from dist_ai.errors import ConfigError, did_you_mean
from dist_ai.export import ModelSpec
from dist_ai.layers.activation import bounds_of
from dist_ai.layers.mlp import require_sizes
from dist_ai.learner import Learner, LearnerOptions, first_weights
from dist_ai.tabular.models import FTTransformer, TabularModel, TabularResNet, get_emb_sz

__all__ = ["reader_of", "tabular_learner"]

_MODELS: dict[str, Callable[..., nn.Module]] = {
    "tabular_model": TabularModel,
    "tabular_resnet": TabularResNet,
    "ft_transformer": FTTransformer,
}


@known_arguments(LearnerOptions)
def tabular_learner(
    dls: DataLoaders,
    layers: Sequence[int] | None = None,
    *,
    arch: str = "tabular_model",
    emb_szs: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    n_out: int | None = None,
    y_range: tuple[float, float] | None = None,
    **options: Unpack[LearnerOptions],
) -> Learner:
    """Returns a Learner of a model of tables.

    Args:
        dls: the rows, as `TabularDataLoaders` or `TabularPandas.dataloaders` gives them.
        layers: sizes of `TabularModel`'s hidden layers, 200 and 100 by default.
        arch: ``"tabular_model"``, ``"tabular_resnet"`` or ``"ft_transformer"``.
        emb_szs: numbers of an embedding by column, where the rule (`embedding_size`) is not wanted.
        config: more arguments of the model: ``{"ps": 0.1, "embed_p": 0.05, "use_bn": False}``, ``{"d_token": 32}``.
        n_out: outputs; by default classes, or numbers to predict.
        y_range: (low, high) that predicted numbers stay within; a little wider than the targets' is best.
        options: ``metrics=accuracy``, ``precision="bf16"`` and more; see `Learner`.

    The first weights depend on `dls.seed` only. Exports of it predict rows, as dicts, and whole tables.

    Raises:
        ConfigError: no such `arch`, an argument that the model does not have, a `y_range` of classes, or loaders of other data.
    """
    if arch not in _MODELS:
        raise ConfigError(f"arch={arch!r}: expected {', '.join(_MODELS)}{did_you_mean(arch, _MODELS)}")
    if layers is not None:
        require_sizes("layers", layers)
    if layers is not None and arch != "tabular_model":
        raise ConfigError(
            f"layers={list(layers)} is for arch='tabular_model'; {arch} is sized by config, such as n_blocks"
        )
    reader = reader_of(dls)
    if unnumbered := [name for name in reader.seen_cats if name not in reader.classes]:
        raise ConfigError(f"it is not known how many categories {unnumbered[0]!r} has; add Categorify to procs")
    bounds = bounds_of(y_range if y_range is not None else (config or {}).get("y_range"))
    if bounds is not None and any(isinstance(tfm, Categorize) for each in dls.recipe.targets for tfm in each.tfms):
        raise ConfigError(
            f"y_range={tuple(bounds)} is of numbers to predict, and the target is one of the classes "
            f"{', '.join(map(str, dls.recipe.vocab[:5]))}; leave it out, or make the loaders with y_block=RegressionBlock"
        )
    arguments = {
        "emb_szs": [list(size) for size in get_emb_sz(reader.classes, emb_szs)],
        "n_cont": len(reader.seen_conts),
        "out_sz": dls.recipe.num_outputs if n_out is None else n_out,
        "y_range": bounds,
        **({"layers": list(layers)} if layers is not None else {}),
        **(config or {}),
    }
    with first_weights(dls):
        try:
            model = _MODELS[arch](**arguments)
        except TypeError as error:
            raise ConfigError(
                f"config={dict(config or {})}: {error}; see {_MODELS[arch].__name__} for its arguments"
            ) from error
    return Learner(dls, model, spec=ModelSpec(arch, arguments), **options)


def reader_of(dls: DataLoaders) -> ReadRows:
    """Returns the transform that reads rows of a table.

    Raises:
        ConfigError: these are loaders of other data.
    """
    reader = dls.recipe.reads_tables if isinstance(dls, DataLoaders) and dls.has_recipe else None
    if not isinstance(reader, ReadRows):
        raise ConfigError(
            "these loaders are not of a table's rows; make them with TabularDataLoaders, or TabularPandas.dataloaders"
        )
    return reader
