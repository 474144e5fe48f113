"""What a trained model gets wrong: the samples with the largest losses, and scores by class, as tables and as plots.

```python
interp = ClassificationInterpretation.from_learner(learn)
interp.plot_confusion_matrix().savefig("confusion.png")
interp.most_confused(min_val=2)
interp.plot_top_losses(9).savefig("worst.png")
```

`from_learner` runs the model once over the validation data, on all ranks, and every rank has the same result. It keeps a loss
for each sample and counts for each class; inputs and predictions are not kept, but made again for the few that are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.core.names import known_arguments, missing_attribute
from dist_ai.core.nested import map_tensors, parts
from dist_ai.core.show import show_results, words
from dist_ai.core.types import TensorCategory, TensorMultiCategory, plain
from dist_ai.data.loader import DataLoader
from dist_ai.data.looking import AnyLoader, as_target, chosen_samples, decoded_samples, one_or_several, sized
from dist_ai.errors import ConfigError, DataError
from dist_ai.learner.learner import Learner
from dist_ai.losses import decodes, sample_losses
from dist_ai.metrics.counts import ConfusionMatrix, Counts, counts_of_classes, f_beta, jaccard, precision, recall
from dist_ai.metrics.regression import ExplainedVariance, PearsonCorrCoef, R2Score, mae, mse, rmse

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = [
    "ClassificationInterpretation",
    "Confusion",
    "Interpretation",
    "RegressionInterpretation",
    "SegmentationInterpretation",
]


class Interpretation:
    """The samples of any data with the largest losses.

    Args:
        learn: the Learner.
        dl: what was predicted.
        losses: of each sample, (samples,), in the order of the data.
        indices: of those samples in the data set.

    Attributes:
        losses: see above.
    """

    def __init__(self, learn: Learner, dl: DataLoader, losses: torch.Tensor, indices: torch.Tensor) -> None:
        self.learn = learn
        self.dl = dl
        self.losses = losses
        self.indices = indices

    @classmethod
    @known_arguments()
    def from_learner(cls, learn: Learner, dl: DataLoader | None = None, *, ds_idx: int = 1) -> Interpretation:
        """Returns the interpretation of `dl`, or of a part of the data; see `Learner.evaluation_loader`. Collective."""
        return _watch(learn, learn.evaluation_loader(dl, ds_idx), lambda pred, targets, num: None)

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def top_losses(self, k: int | None = None, *, largest: bool = True) -> tuple[torch.Tensor, list[int]]:
        """Returns the `k` largest losses (all, if None), or the smallest, and the numbers of their samples."""
        order = self.losses.argsort(descending=largest, stable=True)[:k]
        return self.losses[order], order.tolist()

    def top_losses_table(self, k: int = 9, *, largest: bool = True) -> DataFrame:
        """Returns the samples with the largest losses as a table: sample, loss, target, prediction, and the item (its file)."""
        import pandas as pd

        losses, samples = self.top_losses(k, largest=largest)
        batch, looked_at, guesses = self._look(samples)
        first = self.learn.dls.n_inp  # of the targets
        item = getattr(self.dl.dataset, "item", None)
        rows = {
            "sample": samples,
            "loss": losses.tolist(),
            "target": [words(batch[first], each[first]) for each in looked_at],
            "prediction": [words(batch[first], guess) for guess in guesses],
            "item": [item(int(self.indices[i])) if item is not None else None for i in samples],
        }
        return pd.DataFrame(rows)

    @known_arguments()
    def plot_top_losses(
        self, k: int = 9, *, largest: bool = True, figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the samples with the largest losses, drawn as their types say; see `Learner.show_results`."""
        losses, samples = self.top_losses(k, largest=largest)
        figure = self.show_results(samples)
        figure.suptitle("loss " + ", ".join(f"{loss:.2f}" for loss in losses.tolist()), fontsize=9)
        return sized(figure, figsize)

    def show_results(self, samples: Sequence[int]) -> Figure:
        """Returns a figure of some samples with their targets and predictions.

        Args:
            samples: their numbers, in the order of the data.
        """
        batch, looked_at, guesses = self._look(samples)
        inputs, targets = batch[: self.learn.dls.n_inp], batch[self.learn.dls.n_inp :]
        return show_results(one_or_several(inputs), one_or_several(targets), looked_at, guesses)

    def _look(self, samples: Sequence[int]) -> tuple[tuple[Any, ...], list[tuple[Any, ...]], list[Any]]:
        """Returns some samples as a batch, as samples decoded, and their decoded predictions; on this rank alone."""
        if not len(samples):
            raise ConfigError("no samples to look at: give at least one")
        learn, n_inp = self.learn, self.learn.dls.n_inp
        batch = parts(chosen_samples(self.dl, self.indices[list(samples)].numpy()))
        modes = [(module, module.training) for module in learn.model.modules()]
        try:
            learn.model.eval()
            with torch.inference_mode():
                decoded = decodes(learn.loss_func, learn.precision.forward(learn.model, plain(batch[:n_inp])))
        finally:
            for module, training in modes:
                module.training = training
        recipe = learn.dls.recipe if learn.dls.has_recipe else None
        guesses = decoded_samples((*batch[:n_inp], as_target(decoded, batch[n_inp])), recipe)
        return batch, decoded_samples(batch, recipe), [guess[n_inp] for guess in guesses]


class Confusion(NamedTuple):
    """How often samples (or pixels) of one class were predicted as another.

    Attributes:
        actual, predicted: the classes.
        times: how often.
    """

    actual: str
    predicted: str
    times: int


class ClassificationInterpretation:
    """What is mistaken for what, where each sample has one class, or where each class is there or not by itself.

    Args:
        samples: the samples with their losses.
        vocab: the classes.
        counts: (classes, classes) counts, rows true and columns predicted; for several labels (classes, 2, 2), for each
            class whether it is there and whether it was predicted.

    >>> counts = np.array([[5, 1], [0, 3]])
    >>> interp = ClassificationInterpretation(None, ["cat", "dog"], counts)
    >>> interp.most_confused()
    [Confusion(actual='cat', predicted='dog', times=1)]
    >>> print(interp.classification_report().round(2))
                  precision  recall  f1-score  support
    cat                1.00    0.83      0.91        6
    dog                0.75    1.00      0.86        3
    macro avg          0.88    0.92      0.88        9
    weighted avg       0.92    0.89      0.89        9
    """

    def __init__(self, samples: Interpretation | None, vocab: Sequence[str], counts: np.ndarray) -> None:
        self.samples = samples
        self.vocab = list(vocab)
        self._counts = counts

    @classmethod
    @known_arguments()
    def from_learner(
        cls, learn: Learner, dl: DataLoader | None = None, *, ds_idx: int = 1
    ) -> ClassificationInterpretation:
        """Returns the interpretation of `dl`, or of a part of the data; see `Learner.evaluation_loader`. Collective.

        Raises:
            DataError: the loss function decodes predictions to something other than classes.
        """
        matrix, of_labels = ConfusionMatrix(lambda _: 0.0, "confusion"), _LabelMatrices()

        def count(pred: torch.Tensor, targets: tuple[Any, ...], num: int) -> None:
            decoded = decodes(learn.loss_func, pred)
            if isinstance(decoded, TensorMultiCategory):
                of_labels.count(plain(decoded), targets[0], num)
            elif isinstance(decoded, TensorCategory):
                matrix.count(plain(decoded), targets[0], pred.numel() // decoded.numel(), num)
            else:
                raise DataError(
                    f"the predictions are no classes: {type(learn.loss_func).__name__} does not decode them to any; for numbers "
                    "there is RegressionInterpretation"
                )

        samples = _watch(learn, learn.evaluation_loader(dl, ds_idx), count)
        local = of_labels.matrices if of_labels.matrices is not None else matrix.matrix
        counts = learn.data_collectives.all_reduce(local, what="confusion").long().numpy()
        return cls(samples, _vocab(learn, len(counts)), counts)

    @property
    def multi_label(self) -> bool:
        """Whether each class is there or not by itself."""
        return self._counts.ndim == 3

    if not TYPE_CHECKING:  # for a type checker any name would be there
        __getattr__ = missing_attribute

    def top_losses(self, k: int | None = None, *, largest: bool = True) -> tuple[torch.Tensor, list[int]]:
        """Returns the largest losses and their samples; see `Interpretation.top_losses`."""
        return _of(self.samples).top_losses(k, largest=largest)

    def top_losses_table(self, k: int = 9, *, largest: bool = True) -> DataFrame:
        """Returns the samples with the largest losses as a table; see `Interpretation.top_losses_table`."""
        return _of(self.samples).top_losses_table(k, largest=largest)

    @known_arguments()
    def plot_top_losses(
        self, k: int = 9, *, largest: bool = True, figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the samples with the largest losses; see `Interpretation.plot_top_losses`."""
        return _of(self.samples).plot_top_losses(k, largest=largest, figsize=figsize)

    def confusion_matrix(self) -> np.ndarray:
        """Returns the counts [actual, predicted], int64; for several labels [class, is there, was predicted]."""
        return self._counts

    def most_confused(self, min_val: int = 1) -> list[Confusion]:
        """Returns what is mistaken for what at least `min_val` times, the most frequent first.

        Raises:
            ConfigError: there are several labels, and none is mistaken for another.
        """
        if self.multi_label:
            raise ConfigError(
                "with several labels a sample, none is mistaken for another; classification_report says how each fares"
            )
        return _most_confused(self._counts, self.vocab, min_val)

    def classification_report(self) -> DataFrame:
        """Returns precision, recall, F1 and support of each class, and their averages, one row each."""
        return _report(self._label_counts(), self.vocab, {"precision": precision, "recall": recall, "f1-score": f_beta})

    def print_classification_report(self) -> None:
        """Prints the report."""
        print(self.classification_report().round(3).to_string())

    @known_arguments()
    def plot_confusion_matrix(
        self, *, normalize: bool = False, cmap: str = "Blues", figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the confusion matrix; for several labels, one of 2 x 2 for each class.

        Args:
            normalize: show shares of the actual class instead of counts.
            cmap: matplotlib's name of the colours.
            figsize: (width, height) in inches; by default what the matrix needs.
        """
        if not self.multi_label:
            return sized(_plot_matrices([self._counts], [""], self.vocab, normalize, cmap), figsize)
        return sized(_plot_matrices(list(self._counts), self.vocab, ["no", "yes"], normalize, cmap), figsize)

    def plot_per_class(self, score: str = "f1-score") -> Figure:
        """Returns a figure of a score of each class, a column of the report, the worst on top."""
        return _plot_bars(self.classification_report()[: len(self.vocab)], score)

    def _label_counts(self) -> Counts:
        counts = torch.from_numpy(self._counts).double()
        return (counts[:, 1, 1], counts[:, 0, 1], counts[:, 1, 0]) if self.multi_label else counts_of_classes(counts)


class SegmentationInterpretation:
    """What pixels are mistaken for what.

    Args:
        samples: the images with their losses.
        vocab: the classes.
        counts: (classes, classes) pixels, rows true and columns predicted.
    """

    def __init__(self, samples: Interpretation | None, vocab: Sequence[str], counts: np.ndarray) -> None:
        self.samples = samples
        self.vocab = list(vocab)
        self._counts = counts

    @classmethod
    @known_arguments()
    def from_learner(
        cls, learn: Learner, dl: DataLoader | None = None, *, ds_idx: int = 1, ignore_index: int | None = None
    ) -> SegmentationInterpretation:
        """Returns the interpretation of `dl`, or of a part of the data; see `Learner.evaluation_loader`. Collective.

        Args:
            learn: the Learner.
            dl, ds_idx: what to predict.
            ignore_index: the target that counts nothing; by default what the loss function ignores.
        """
        if ignore_index is None:
            ignore_index = getattr(learn.loss_func, "ignore_index", None)
        matrix = ConfusionMatrix(lambda _: 0.0, "confusion", ignore_index=ignore_index)

        def count(pred: torch.Tensor, targets: tuple[Any, ...], num: int) -> None:
            decoded = plain(decodes(learn.loss_func, pred))
            matrix.count(decoded, targets[0], pred.numel() // decoded.numel(), num)

        samples = _watch(learn, learn.evaluation_loader(dl, ds_idx), count)
        counts = learn.data_collectives.all_reduce(matrix.matrix, what="confusion").long().numpy()
        target = samples.dl.one_batch()[learn.dls.n_inp]
        return cls(samples, getattr(target, "codes", None) or _vocab(learn, len(counts)), counts)

    def top_losses(self, k: int | None = None, *, largest: bool = True) -> tuple[torch.Tensor, list[int]]:
        """Returns the largest losses and their images; see `Interpretation.top_losses`."""
        return _of(self.samples).top_losses(k, largest=largest)

    @known_arguments()
    def plot_top_losses(
        self, k: int = 9, *, largest: bool = True, figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the images with the largest losses; see `Interpretation.plot_top_losses`."""
        return _of(self.samples).plot_top_losses(k, largest=largest, figsize=figsize)

    def confusion_matrix(self) -> np.ndarray:
        """Returns the counts of pixels [actual, predicted], int64."""
        return self._counts

    def most_confused(self, min_val: int = 1) -> list[Confusion]:
        """Returns what is mistaken for what in at least `min_val` pixels, the most frequent first."""
        return _most_confused(self._counts, self.vocab, min_val)

    def per_class(self) -> DataFrame:
        """Returns intersection over union, Dice, precision, recall and support (pixels) of each class, and averages."""
        scores = {"iou": jaccard, "dice": f_beta, "precision": precision, "recall": recall}
        return _report(counts_of_classes(torch.from_numpy(self._counts).double()), self.vocab, scores)

    @known_arguments()
    def plot_confusion_matrix(
        self, *, normalize: bool = True, cmap: str = "Blues", figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the confusion matrix of pixels, as shares of the actual class or counts."""
        return sized(_plot_matrices([self._counts], [""], self.vocab, normalize, cmap), figsize)

    def plot_per_class(self, score: str = "iou") -> Figure:
        """Returns a figure of a score of each class, a column of `per_class`, the worst on top."""
        return _plot_bars(self.per_class()[: len(self.vocab)], score)


class RegressionInterpretation:
    """How far predicted numbers are off.

    Args:
        samples: the samples with their losses.
        predictions, targets: (samples, numbers), in the order of the data, float.
    """

    def __init__(self, samples: Interpretation | None, predictions: torch.Tensor, targets: torch.Tensor) -> None:
        self.samples = samples
        self.predictions = predictions
        self.targets = targets

    @classmethod
    @known_arguments()
    def from_learner(cls, learn: Learner, dl: DataLoader | None = None, *, ds_idx: int = 1) -> RegressionInterpretation:
        """Returns the interpretation of `dl`, or of a part of the data; see `Learner.evaluation_loader`. Collective.

        It keeps the numbers, not the inputs.
        """
        predictions, targets = learn.get_preds(dl, ds_idx=ds_idx)
        samples = Interpretation.from_learner(learn, dl, ds_idx=ds_idx)
        return cls(samples, predictions.reshape(len(predictions), -1), targets.reshape(len(targets), -1))

    def top_losses(self, k: int | None = None, *, largest: bool = True) -> tuple[torch.Tensor, list[int]]:
        """Returns the largest losses and their samples; see `Interpretation.top_losses`."""
        return _of(self.samples).top_losses(k, largest=largest)

    @known_arguments()
    def plot_top_losses(
        self, k: int = 9, *, largest: bool = True, figsize: tuple[float, float] | None = None
    ) -> Figure:
        """Returns a figure of the samples with the largest losses; see `Interpretation.plot_top_losses`."""
        return _of(self.samples).plot_top_losses(k, largest=largest, figsize=figsize)

    def report(self) -> DataFrame:
        """Returns the errors and correlations of each number, one row each."""
        import pandas as pd

        rows = []
        for pred, target in zip(self.predictions.T, self.targets.T, strict=True):
            row = {metric.name: metric(pred, target).item() for metric in (mse, rmse, mae)}
            for moments in (R2Score(), ExplainedVariance(), PearsonCorrCoef()):
                moments.update(pred, target, len(pred))
                row[moments.name] = moments.value()
            rows.append(row)
        return pd.DataFrame(rows)

    def plot_errors(self) -> Figure:
        """Returns a figure of predicted against true numbers, and of how often which error is made."""
        figure = _figure(8.0, 3.6 * self.targets.shape[1])
        for i, (pred, target) in enumerate(zip(self.predictions.T, self.targets.T, strict=True)):
            against = figure.add_subplot(self.targets.shape[1], 2, 2 * i + 1)
            against.scatter(target.numpy(), pred.numpy(), s=6, alpha=0.6)
            ends = [float(torch.minimum(pred, target).min()), float(torch.maximum(pred, target).max())]
            against.plot(ends, ends, color="grey", linewidth=1)
            against.set(xlabel="true", ylabel="predicted")
            often = figure.add_subplot(self.targets.shape[1], 2, 2 * i + 2)
            often.hist((pred - target).numpy(), bins=30)
            often.set(xlabel="predicted - true", ylabel="samples")
        return figure


# ------------------------------------------------------------------------ one pass over the data


class _Watch(Callback):
    """Keeps the loss of each sample of a validation, and shows each batch to `look`."""

    phase: ClassVar[Phase] = Phase.RECORD
    may_cancel: ClassVar[bool] = False

    def __init__(self, look: Callable[[Any, tuple[Any, ...], int], None]) -> None:
        self.look = look
        self.rows: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def after_batch(self) -> None:
        state, share = self.state, self.state.share
        if share is None or state.pred is None:
            return
        if not state.yb:
            raise DataError("there are no targets to hold predictions against; give a loader of samples with targets")
        num = share.num_local
        rows = map_tensors(lambda tensor: tensor[:num], (state.pred, *state.yb))
        losses = sample_losses(self.learn.loss_func, *rows)
        positions, indices = (torch.from_numpy(each[:num]) for each in (share.positions, share.indices))
        self.rows.append((positions, indices, losses.detach().double().cpu()))
        self.look(map_tensors(torch.Tensor.detach, state.pred), state.yb, num)


def _watch(learn: Learner, loader: AnyLoader, look: Callable[[Any, tuple[Any, ...], int], None]) -> Interpretation:
    if not isinstance(loader, DataLoader):
        raise ConfigError(
            f"an interpretation looks at samples by their number, and a {type(loader).__name__} has none; give a DataLoader of "
            "a list of them"
        )
    if loader.shuffle:
        raise ConfigError(
            "an interpretation keeps the order of the data, and this loader shuffles it; use shuffle=False"
        )
    watch = _Watch(look)
    learn.callbacks.add([watch])
    try:
        learn.validate(loader)
    finally:
        learn.callbacks.remove([watch])
    positions, indices, losses = (
        learn.data_collectives.all_gather_rows(torch.cat(each), what="losses") for each in zip(*watch.rows, strict=True)
    )
    order = positions.argsort()
    return Interpretation(learn, loader, losses[order], indices[order])


class _LabelMatrices:
    """Counts for each class whether it is there and whether it was predicted: (classes, 2, 2)."""

    def __init__(self) -> None:
        self.matrices: torch.Tensor | None = None

    def count(self, guess: torch.Tensor, target: torch.Tensor, num_local: int) -> None:
        if self.matrices is None:
            self.matrices = torch.zeros(guess.shape[-1], 2, 2, dtype=torch.float64)
        guess, truth = guess[:num_local].bool(), target[:num_local].bool()
        cells = [(~truth & ~guess), (~truth & guess), (truth & ~guess), (truth & guess)]
        self.matrices += torch.stack([cell.sum(0) for cell in cells], 1).view(-1, 2, 2).cpu()


def _of(samples: Interpretation | None) -> Interpretation:
    if samples is None:
        raise ConfigError(
            "this interpretation was made of counts alone; make it with from_learner(learn) to see samples"
        )
    return samples


def _vocab(learn: Learner, num: int) -> list[str]:
    try:
        return [str(label) for label in learn.dls.vocab]
    except DataError:  # no recipe, or targets without names
        return [str(i) for i in range(num)]


# ------------------------------------------------------------------------ tables


def _most_confused(counts: np.ndarray, vocab: list[str], min_val: int) -> list[Confusion]:
    found = [
        Confusion(vocab[i], vocab[j], int(counts[i, j]))
        for i, j in zip(*np.nonzero(counts >= max(1, min_val)), strict=True)
        if i != j
    ]
    return sorted(found, key=lambda each: each.times, reverse=True)


def _report(counts: Counts, vocab: list[str], scores: Mapping[str, Callable[[Counts], torch.Tensor]]) -> DataFrame:
    import pandas as pd

    support = counts[0] + counts[2]
    columns = {name: score(counts) for name, score in scores.items()}
    table = pd.DataFrame({name: each.numpy() for name, each in columns.items()}, index=vocab)
    table.loc["macro avg"] = {name: each.mean().item() for name, each in columns.items()}
    weights = support / support.sum()
    table.loc["weighted avg"] = {name: (each * weights).sum().item() for name, each in columns.items()}
    table["support"] = [int(each) for each in [*support.tolist(), *[support.sum().item()] * 2]]
    return table


# ------------------------------------------------------------------------ plots


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plot_matrices(
    matrices: list[np.ndarray], titles: Sequence[str], names: Sequence[str], normalize: bool, cmap: str
) -> Figure:
    columns = max(1, int(len(matrices) ** 0.5 + 0.999))
    rows = -(-len(matrices) // columns)
    side = max(2.6, 0.45 * len(names) + 1.2)
    figure = _figure(side * columns, side * rows)
    for n, (counts, title) in enumerate(zip(matrices, titles, strict=True)):
        shown = counts / np.maximum(1, counts.sum(1, keepdims=True)) if normalize else counts
        axes = figure.add_subplot(rows, columns, n + 1)
        axes.imshow(shown, cmap=cmap, vmin=0)
        axes.set(title=title, xlabel="predicted", ylabel="actual")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        for i, j in np.ndindex(*shown.shape):
            text = f"{shown[i, j]:.2f}" if normalize else f"{shown[i, j]:d}"
            light = shown[i, j] > shown.max() / 2
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="white" if light else "black")
    return figure


def _plot_bars(table: DataFrame, score: str) -> Figure:
    if score not in table:
        raise ConfigError(f"score={score!r} is no column of the report: {', '.join(map(repr, table.columns))}")
    ordered = table[score].sort_values(ascending=False)
    figure = _figure(5.0, 1.0 + 0.25 * len(ordered))
    axes = figure.add_subplot()
    axes.barh([str(name) for name in ordered.index], ordered.to_numpy())
    axes.set(xlabel=score, xlim=(0, 1))
    return figure
