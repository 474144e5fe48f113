"""The optimizers, as short recipes over the steps. Defaults are fastai's."""

from __future__ import annotations

from collections.abc import Sequence

from dist_ai.optimizer.optimizer import Optimizer, ParamGroup
from dist_ai.optimizer.steps import (
    accumulate_grad,
    adam_step,
    average_grad,
    average_sqr_grad,
    l2_reg,
    momentum_step,
    sgd_step,
    weight_decay,
)

__all__ = ["SGD", "Adam"]


def SGD(
    groups: Sequence[ParamGroup], lr: float = 1e-3, mom: float = 0.0, wd: float = 0.0, *, decouple_wd: bool = True
) -> Optimizer:
    """Returns stochastic gradient descent, with momentum if `mom` is not 0.

    Args:
        groups: the parameters.
        lr: learning rate.
        mom: what of the velocity stays from one step to the next.
        wd: weight decay.
        decouple_wd: decay apart from the gradient; otherwise as an L2 penalty, which equals `torch.optim.SGD`'s.
    """
    decay = weight_decay if decouple_wd else l2_reg
    return Optimizer(
        groups, [decay, accumulate_grad, momentum_step] if mom else [decay, sgd_step], lr=lr, mom=mom, wd=wd
    )


def Adam(
    groups: Sequence[ParamGroup],
    lr: float = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.01,
    *,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns Adam (arXiv:1412.6980); with decoupled decay, the default, it is AdamW (arXiv:1711.05101).

    Args:
        groups: the parameters.
        lr: learning rate.
        mom: decay of the average gradient (beta 1).
        sqr_mom: decay of the average squared gradient (beta 2).
        eps: added to the root of the second moment; larger than torch's 1e-8, as in fastai.
        wd: weight decay.
        decouple_wd: decay apart from the gradient; otherwise as an L2 penalty.
    """
    decay = weight_decay if decouple_wd else l2_reg
    steps = [decay, average_grad, average_sqr_grad, adam_step]
    return Optimizer(groups, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)
