"""What a Learner is given, checked as it is made: what is a slip of the pen says so there, and not in the first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.data import DataLoader as TorchDataLoader

from dist_ai.callbacks import Callback
from dist_ai.core.nested import parts
from dist_ai.data.loaders import DataLoaders
from dist_ai.errors import ConfigError
from dist_ai.losses import default_loss

__all__ = ["Cbs", "as_dataloaders", "check_loss", "check_model", "check_opt_func", "listed", "loss_of"]


def as_dataloaders(given: Any) -> DataLoaders:
    """Returns loaders as they are, and one loader, for training alone, or a pair, as `DataLoaders`.

    Raises:
        ConfigError: they are none.
    """
    if isinstance(given, DataLoaders):
        return given
    loaders: Sequence[Any] = given if isinstance(given, tuple | list) else [given]
    for each in loaders:
        if not (isinstance(each, TorchDataLoader) or hasattr(each, "batches")) and each is not None:
            hint = "; the data comes first: Learner(dls, model)" if isinstance(each, nn.Module) else ""
            raise ConfigError(
                f"dls: a {type(each).__name__} is no loader{hint}; give DataLoaders, a loader of dist_ai or torch, or a pair "
                "(train, valid) of them, which gives tuples (input, target)"
            )
    if not 1 <= len(loaders) <= 2:
        raise ConfigError(f"dls has {len(loaders)} loaders; give one for training, or a pair (train, valid)")
    return DataLoaders(*loaders)


def check_model(model: Any) -> None:
    """Checks that it is a module.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(model, nn.Module):
        hint = f": did you mean {model.__name__}(...)?" if isinstance(model, type) else ""
        raise ConfigError(f"model={model!r:.100} is no torch module{hint}; give the module itself")


def check_loss(loss_func: Any) -> None:
    """Checks that it is a function of predictions and targets whose result is the mean over the samples.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(loss_func, type) or not callable(loss_func):
        hint = f"did you mean {loss_func.__name__}()?" if isinstance(loss_func, type) else ""
        raise ConfigError(
            f"loss_func={loss_func!r} is no loss{'; ' + hint if hint else ''}; give a function of (prediction, *targets), such "
            "as CrossEntropyLoss() of dist_ai.losses, nn.MSELoss() or F.cross_entropy"
        )
    options = getattr(loss_func, "keywords", vars(loss_func) if hasattr(loss_func, "__dict__") else {})
    if (reduction := options.get("reduction", "mean")) in ("sum", "none"):
        raise ConfigError(
            f"the loss function has reduction={reduction!r}; training needs the mean over the samples, which is the same on "
            "any number of workers: give one with reduction='mean'"
        )


def loss_of(dls: DataLoaders) -> Any:
    """Returns the default loss of what the targets are.

    Raises:
        ConfigError: there are no data, or no default for them.
    """
    if not dls.has_data:
        raise ConfigError("no loss_func was given and there is no data to infer it from")
    target = parts(dls.one_batch())[dls.n_inp]
    if default_loss.find(type(target)) is None:
        raise ConfigError(
            f"no loss_func was given, and targets of type {type(target).__name__} have no default one; "
            "give Learner(..., loss_func=...)"
        )
    return default_loss(target)


def check_opt_func(opt_func: Any) -> None:
    """Checks that it makes optimizers.

    Raises:
        ConfigError: it is an optimizer already, or something else.
    """
    if isinstance(opt_func, torch.optim.Optimizer) or hasattr(opt_func, "load_state"):
        kind = type(opt_func).__name__
        raise ConfigError(
            f"opt_func is a {kind} that was made already; give what makes one, such as opt_func=torch.optim.AdamW or "
            "partial(torch.optim.SGD, momentum=0.9), or assign it afterwards: learn.opt = optimizer"
        )
    if not callable(opt_func):
        raise ConfigError(
            f"opt_func={opt_func!r} makes no optimizer; give a recipe such as Adam of dist_ai.optimizer, or a class such as "
            "torch.optim.AdamW"
        )


def check_opt(opt: Any) -> None:
    """Checks that what was made is an optimizer.

    Raises:
        ConfigError: it is something else.
    """
    if not hasattr(opt, "set_hyper"):
        raise ConfigError(
            f"opt_func made a {type(opt).__name__}, which is no optimizer of dist_ai.optimizer or of torch; make a class of "
            "your own a torch.optim.Optimizer, or write its step as a function: partial(Optimizer, steps=[step])"
        )


Cbs: TypeAlias = Callback | Iterable[Callback] | None
"""What an argument `cbs` may be."""


def listed(cbs: Cbs) -> list[Callback]:
    """Returns one callback, or several, or None for none, as a list; a class by mistake is refused where it is attached.

    Raises:
        ConfigError: it is something else.
    """
    if cbs is None:
        return []
    if isinstance(cbs, (Callback, type)):
        return [cbs]
    if isinstance(cbs, str) or not isinstance(cbs, Iterable):
        raise ConfigError(f"cbs={cbs!r:.100} is no callback; give one, such as EarlyStopping(), or a list of them")
    return list(cbs)
