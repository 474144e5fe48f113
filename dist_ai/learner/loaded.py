"""Learners of exported models: of the class that made the export, where an application has one of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dist_ai.core.names import known_arguments
from dist_ai.core.registry import Registry
from dist_ai.data.loaders import DataLoaders
from dist_ai.errors import DataError
from dist_ai.export import load_export
from dist_ai.learner.learner import Learner

__all__ = ["load_learner", "register_learner"]

_makers: Registry[Callable[..., Learner]] = Registry(
    "learner", "decorate its class with @dist_ai.learner.register_learner before loading"
)

register_learner = _makers.register
"""Decorates a Learner's class, or a function of its arguments, by the model builder whose exports are loaded as one."""


@known_arguments()
def load_learner(directory: str | Path) -> Learner:
    """Returns a Learner with an exported model, ready to predict; set its `dls` to train it further.

    It can do what the one that was exported could without its data: a `CollabLearner` recommends, a `ForecastLearner`
    forecasts, a language model writes.

    Raises:
        ArtifactError: the export is missing, damaged, or names what this program does not have.
    """
    artifact = load_export(directory)
    dls = DataLoaders.without_data(artifact.recipe)
    loss_func = artifact.loss_func if artifact.loss_func is not None else _no_loss
    builder = artifact.spec.builder
    make = _makers.find(builder) if builder in _makers else Learner
    return make(dls, artifact.model, loss_func, spec=artifact.spec, run_dir=None)


def _no_loss(*_: Any) -> torch.Tensor:
    raise DataError("the export did not say which loss the model was trained with; set learn.loss_func")
