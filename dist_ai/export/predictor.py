"""Predicts with an exported model: no Learner, no training data, no callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dist_ai.core.types import TensorMultiCategory, plain
from dist_ai.data.collate import samples_of
from dist_ai.data.device import to_device, usable
from dist_ai.data.loader import DataLoader
from dist_ai.distributed.environment import World
from dist_ai.errors import ConfigError, DataError
from dist_ai.export.artifact import load_export
from dist_ai.losses import activation, decodes

__all__ = ["Prediction", "Predictor"]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one item.

    Attributes:
        label: the decoded prediction, such as a class name.
        confidence: probability of that label, 0 to 1; of several labels that of the least certain one; NaN where the model
            gives none, or there is no label.
        output: the model's output after the loss's activation, on the CPU: one probability a class.
    """

    label: Any
    confidence: float
    output: torch.Tensor


class Predictor:
    """An exported model, ready to predict.

    Args:
        directory: the export.
        device: where to compute; by default a GPU if there is one.

    Raises:
        ArtifactError: the export is missing, damaged, or names what this program does not have.
        ConfigError: there is no such device here.

    ```python
    predictor = Predictor("model")
    predictor.predict("cat.jpg").label
    ```
    """

    def __init__(self, directory: str | Path, *, device: torch.device | str | None = None) -> None:
        self.device = usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        artifact = load_export(directory)
        self.model = artifact.model.to(self.device)
        self.recipe = artifact.recipe
        self.loss_func = artifact.loss_func

    @property
    def vocab(self) -> list[str]:
        """The classes, in the order of the outputs."""
        return self.recipe.vocab

    def predict(self, item: Any) -> Prediction:
        """Returns the prediction for one item: what the items of the training data were, such as an image's path."""
        return self.predict_many([item])[0]

    @torch.inference_mode()
    def predict_many(self, items: Sequence[Any], *, bs: int = 64) -> list[Prediction]:
        """Returns the predictions for several items, in their order.

        Args:
            items: what the items of the training data were.
            bs: how many go through the model at once.

        Raises:
            BadSampleError: an item could not be read; names it.
            ConfigError: it is a language model, which continues texts.
        """
        if self.recipe.writes_text:
            raise ConfigError(
                "a language model says nothing of a text, it continues it: load_learner(directory).predict(text, n_words=20)"
            )
        if not len(items):
            raise DataError("nothing to predict: the list of items is empty")
        loader = DataLoader(
            self.recipe.samples(items),
            bs,
            num_workers=0,
            item_tfms=self.recipe.item_tfms.tfms,
            batch_tfms=self.recipe.batch_tfms.tfms,
            collate=self.recipe.collate,
            device=self.device,
            world=World(device=self.device),
        )
        predictions: list[Prediction] = []
        for batch in loader:
            raw = self.model(*plain(batch))
            # Read sample by sample from here on, which on the device would wait for each.
            outputs, decoded = to_device((activation(self.loss_func, raw), decodes(self.loss_func, raw)), _CPU)
            labels = self.recipe.decode_targets((*batch, *self.recipe.as_targets(decoded, batch)))
            predictions += [
                Prediction(_alone(label), _confidence(output, raw_label), output)
                for label, (output,), (raw_label,) in zip(
                    labels, samples_of((outputs,)), samples_of((decoded,)), strict=True
                )
            ]
        return predictions


_CPU = torch.device("cpu")


def _alone(values: tuple[Any, ...]) -> Any:
    return values if len(values) > 1 else values[0]


def _confidence(output: Any, label: Any) -> float:
    """Returns the probability of what was decided; of several labels, that of the least certain."""
    if not isinstance(label, torch.Tensor) or not isinstance(output, torch.Tensor) or output.dim() != 1:
        return float("nan")
    if isinstance(label, TensorMultiCategory):
        found = output[plain(label).cpu().bool()]
        return float(found.min()) if len(found) else float("nan")
    is_class = label.dim() == 0 and not label.is_floating_point()
    return float(output[int(label)]) if is_class else float("nan")
