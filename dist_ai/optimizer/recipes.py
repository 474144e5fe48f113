"""The optimizers, as short recipes over the steps. Defaults are fastai's where fastai has the optimizer.

All take parameters as groups, as ``model.named_parameters()`` or as ``model.parameters()``, and the same names for the
same things: `lr`, `wd` (weight decay), `mom` (beta 1), `sqr_mom` (beta 2), `eps`. With `decouple_wd`, the default,
weight decay is apart from the gradient; otherwise it is an L2 penalty, a part of the gradient.

>>> w = torch.nn.Parameter(torch.ones(1))
>>> opt = SGD([w], lr=0.5)
>>> w.sum().backward(); opt.step(); w.item()
0.5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from dist_ai.errors import ConfigError
from dist_ai.optimizer.either import Either
from dist_ai.optimizer.groups import Params
from dist_ai.optimizer.muon import is_matrix, muon_step
from dist_ai.optimizer.optimizer import Optimizer
from dist_ai.optimizer.steps import (
    Step,
    accumulate_grad,
    adam_step,
    adan_step,
    average_grad,
    average_sqr_grad,
    l2_reg,
    lamb_step,
    larc_rate,
    lars_rate,
    lion_step,
    lookahead_begin,
    lookahead_step,
    momentum_step,
    nesterov_step,
    qhadam_step,
    radam_step,
    rms_prop_momentum_step,
    rms_prop_step,
    schedule_free_average,
    schedule_free_step,
    sgd_step,
    weight_decay,
)

__all__ = [
    "LAMB",
    "LARC",
    "LARS",
    "SGD",
    "Adam",
    "AdamW",
    "Adan",
    "Lion",
    "Lookahead",
    "Muon",
    "QHAdam",
    "RAdam",
    "RMSProp",
    "Ranger",
    "ScheduleFreeAdamW",
]


def _decay(decouple_wd: bool) -> Step:
    return weight_decay if decouple_wd else l2_reg


def SGD(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.0,
    wd: float = 0.0,
    *,
    nesterov: bool = False,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns stochastic gradient descent, with momentum if `mom` is not 0: v = mom*v + g, p -= lr*v.

    The same as `torch.optim.SGD` with ``decouple_wd=False``. Without momentum and with decoupled decay it takes sparse
    gradients.

    Args:
        params: the parameters.
        lr: learning rate.
        mom: what of the velocity stays from one step to the next.
        wd: weight decay.
        nesterov: step by g + mom*v, one step ahead along the velocity.
        decouple_wd: see the top of this page.

    >>> SGD([torch.nn.Parameter(torch.ones(1))], mom=0.9).kind
    'weight_decay, accumulate_grad, momentum_step'
    """
    steps: list[Step] = [sgd_step] if not mom else [accumulate_grad, nesterov_step if nesterov else momentum_step]
    if nesterov and not mom:
        raise ConfigError("SGD(nesterov=True) looks ahead along the velocity, and mom=0 has none; give mom=0.9 or so")
    sparse = decouple_wd and not mom
    return Optimizer(params, [_decay(decouple_wd), *steps], sparse=sparse, lr=lr, mom=mom, wd=wd)


def RMSProp(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.0,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.0,
    *,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns RMSProp (Tieleman and Hinton, 2012): v is the average of g^2, p -= lr * g / (sqrt(v) + eps).

    The same as `torch.optim.RMSprop` with ``decouple_wd=False``, momentum included: the velocity is of the divided
    gradient. fastai divides the velocity of the gradient instead.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = RMSProp([w], lr=0.01)
    >>> w.sum().backward(); opt.step(); round(w.item(), 4)  # 1 - 0.01 / sqrt(0.01)
    0.9
    """
    last: Step = rms_prop_momentum_step if mom else rms_prop_step
    steps = [_decay(decouple_wd), average_sqr_grad, last]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def Adam(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.01,
    *,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns Adam (Kingma and Ba, arXiv:1412.6980); with decoupled decay, the default, it is AdamW (arXiv:1711.05101).

    m and v are the averages of g and g^2, without bias: p -= lr * m / (sqrt(v) + eps). The same as `torch.optim.AdamW`,
    or `torch.optim.Adam` with ``decouple_wd=False``; the defaults are fastai's.

    Args:
        params: the parameters.
        lr: learning rate.
        mom: decay of the average gradient (beta 1).
        sqr_mom: decay of the average squared gradient (beta 2).
        eps: added to the root of the second moment; larger than torch's 1e-8, as in fastai.
        wd: weight decay.
        decouple_wd: see the top of this page.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Adam([w], lr=0.1, wd=0.0)
    >>> w.sum().backward(); opt.step(); round(w.item(), 4)
    0.9
    """
    steps = [_decay(decouple_wd), average_grad, average_sqr_grad, adam_step]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def AdamW(
    params: Params, lr: float = 1e-3, mom: float = 0.9, sqr_mom: float = 0.999, eps: float = 1e-8, wd: float = 0.01
) -> Optimizer:
    """Returns `Adam` with decoupled decay and the defaults of `torch.optim.AdamW`, to port what was tuned with that.

    >>> AdamW([torch.nn.Parameter(torch.ones(1))]).hypers
    [{'lr': 0.001, 'mom': 0.9, 'sqr_mom': 0.999, 'eps': 1e-08, 'wd': 0.01}]
    """
    return Adam(params, lr, mom, sqr_mom, eps, wd)


def RAdam(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.9,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    wd: float = 0.0,
    *,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns rectified Adam (Liu et al., arXiv:1908.03265): Adam that warms up by itself.

    While too few gradients are known for v to mean something, the step is lr*m; then Adam's, times how much of the
    variance of 1/sqrt(v) is left. The same as `torch.optim.RAdam`, where eps is added before v is corrected; fastai
    adds it afterwards.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = RAdam([w], lr=0.1)
    >>> w.sum().backward(); opt.step(); round(w.item(), 4)
    0.9
    """
    steps = [_decay(decouple_wd), average_grad, average_sqr_grad, radam_step]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def QHAdam(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.999,
    sqr_mom: float = 0.999,
    nu_1: float = 0.7,
    nu_2: float = 1.0,
    eps: float = 1e-8,
    wd: float = 0.01,
    *,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns quasi-hyperbolic Adam (Ma and Yarats, arXiv:1810.06801): p -= lr * a / (sqrt(b) + eps).

    a = (1 - nu_1)*g + nu_1*m and b = (1 - nu_2)*g^2 + nu_2*v, with m and v free of bias: Adam if both nu are 1.

    >>> QHAdam([torch.nn.Parameter(torch.ones(1))]).get_hyper("nu_1")
    [0.7]
    """
    steps = [_decay(decouple_wd), average_grad, average_sqr_grad, qhadam_step]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, nu_1=nu_1, nu_2=nu_2, eps=eps, wd=wd)


def LARS(
    params: Params, lr: float = 1e-3, mom: float = 0.9, trust: float = 0.02, eps: float = 1e-8, wd: float = 0.0
) -> Optimizer:
    """Returns LARS (You et al., arXiv:1708.03888): SGD whose rate in each layer is in proportion to |p| / |g|.

    rate = trust*|p| / (|g| + wd*|p| + eps), v = mom*v + rate*(g + wd*p), p -= lr*v. In the paper lr is a factor of what
    enters v, here of v itself, as in torch's SGD: the same while lr does not change. Decay is part of the formula, so
    it is never decoupled. Where |p| is 0 the rate is 1, for a layer that begins at 0 must be able to leave it.

    >>> w = torch.nn.Parameter(torch.full((4,), 2.0))
    >>> opt = LARS([w], lr=1.0, trust=0.1)
    >>> (1000 * w).sum().backward(); opt.step(); w[0].item()  # a tenth of |p|, however large the gradient
    1.7999999523162842
    """
    return Optimizer(params, [lars_rate, accumulate_grad, momentum_step], lr=lr, mom=mom, trust=trust, eps=eps, wd=wd)


def LARC(
    params: Params, lr: float = 1e-3, mom: float = 0.9, trust: float = 0.02, eps: float = 1e-8, wd: float = 0.0
) -> Optimizer:
    """Returns LARC: `LARS` in which no layer's rate is above 1, so none learns faster than `lr`.

    fastai's formula. NVIDIA's apex bounds trust*|p| / |g| by lr instead of by 1.

    >>> w = torch.nn.Parameter(torch.full((4,), 2.0))
    >>> opt = LARC([w], lr=0.5, trust=0.1)
    >>> (1e-3 * w).sum().backward(); opt.step(); round(w[0].item(), 4)
    1.9995
    """
    return Optimizer(params, [larc_rate, accumulate_grad, momentum_step], lr=lr, mom=mom, trust=trust, eps=eps, wd=wd)


def LAMB(
    params: Params, lr: float = 1e-3, mom: float = 0.9, sqr_mom: float = 0.99, eps: float = 1e-5, wd: float = 0.0
) -> Optimizer:
    """Returns LAMB (You et al., arXiv:1904.00962): Adam for large batches, p -= lr * |p|/|u| * u in each layer.

    u = m / (sqrt(v) + eps) + wd*p, with m and v free of bias. The paper's phi is the identity. fastai caps |p|/|u| at 10
    and decays apart from u, which the paper does not.

    >>> w = torch.nn.Parameter(torch.full((4,), 2.0))
    >>> opt = LAMB([w], lr=0.1)
    >>> w.sum().backward(); opt.step(); round(w[0].item(), 4)  # a tenth of |p|
    1.8
    """
    steps = [average_grad, average_sqr_grad, lamb_step]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def Lion(params: Params, lr: float = 1e-4, mom: float = 0.9, avg_mom: float = 0.99, wd: float = 0.1) -> Optimizer:
    """Returns Lion (Chen et al., arXiv:2302.06675): p -= lr * sign(mom*m + (1 - mom)*g), one state tensor a parameter.

    Every number moves by lr, so take a learning rate 3 to 10 times smaller than Adam's, and as much more decay.

    Args:
        params: the parameters.
        lr: learning rate.
        mom: weight of the average in the update (beta 1).
        avg_mom: decay of the average gradient (beta 2).
        wd: weight decay, decoupled.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Lion([w], lr=0.1, wd=0.0)
    >>> (5 * w).sum().backward(); opt.step(); round(w.item(), 4)
    0.9
    """
    return Optimizer(params, [weight_decay, lion_step], lr=lr, mom=mom, avg_mom=avg_mom, wd=wd)


def Adan(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.98,
    diff_mom: float = 0.92,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.02,
) -> Optimizer:
    """Returns Adan (Xie et al., arXiv:2208.06677): Adam with Nesterov's look ahead, from differences of gradients.

    m, d and n are the averages of g, of its change, and of (g + diff_mom*change)^2; p -= lr * (m + diff_mom*d) / (sqrt(n) +
    eps), then p /= 1 + lr*wd. The paper's betas are 1 minus these. As in its authors' program the averages are
    freed of bias and the first change is 0; the paper's listing begins them at the first gradient instead.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Adan([w], lr=0.1, wd=0.0)
    >>> w.sum().backward(); opt.step(); round(w.item(), 4)
    0.9
    """
    return Optimizer(params, [adan_step], lr=lr, mom=mom, diff_mom=diff_mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def ScheduleFreeAdamW(
    params: Params, lr: float = 2.5e-3, mom: float = 0.9, sqr_mom: float = 0.999, eps: float = 1e-8, wd: float = 0.0
) -> Optimizer:
    """Returns schedule-free AdamW (Defazio et al., arXiv:2405.15682): a constant rate, and an average instead of decay.

    z takes AdamW's steps, from gradients at p = (1 - mom)*z + mom*x; x is the average of all z, weighted by lr^2. The
    model trains p and is evaluated, and exported, with x: `eval` puts x in, `train` puts p back. `Learner` calls them; a
    loop of your own calls ``opt.eval()`` before validation and ``opt.train()`` after it. BatchNorm's statistics are those
    of p: recompute them for x.

    Give it a constant learning rate, or one that warms up (``combine([(0.05, linear(0, lr)), (0.95, constant(lr))])``).
    The weights are of lr itself, as in the paper; its authors' program takes the largest lr until then.

    Raises:
        ConfigError: `mom` is not between 0 and 1.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = ScheduleFreeAdamW([w], lr=0.1)
    >>> for _ in range(3):
    ...     w.grad = w.detach().clone(); opt.step()
    >>> trained = w.item(); opt.eval(); w.item() > trained
    True
    """
    if not 0 < mom < 1:
        raise ConfigError(f"ScheduleFreeAdamW(mom={mom}): expected more than 0 and less than 1, such as 0.9")
    steps = [average_sqr_grad, schedule_free_step]
    return Optimizer(params, steps, average=schedule_free_average, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def Muon(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.95,
    sqr_mom: float = 0.99,
    eps: float = 1e-8,
    wd: float = 0.1,
    *,
    matrices: Callable[[str, torch.Tensor], bool] = is_matrix,
) -> Optimizer:
    """Returns Muon (Jordan et al., https://kellerjordan.github.io/posts/muon/) for matrices, and AdamW for the rest.

    The momentum m of a matrix is replaced by about U V^T of m = U S V^T: all directions are learned equally fast. Its
    length is matched to AdamW's (0.2 * sqrt(larger side), Liu et al., arXiv:2502.16982), so one `lr` and `wd` serve all
    parameters. On matrices the same as `torch.optim.Muon` with ``adjust_lr_fn="match_rms_adamw"``. Filters of
    convolutions count as matrices too, a row a filter. Sharded matrices are gathered, one after the other.

    Args:
        params: the parameters.
        lr: learning rate.
        mom: momentum of the matrices; beta 1 of AdamW.
        sqr_mom: beta 2 of AdamW.
        eps: of AdamW.
        wd: weight decay, decoupled.
        matrices: a function of a parameter's name and the parameter. Embeddings and the last layer are better left to
            AdamW: ``lambda name, p: is_matrix(name, p) and not name.startswith(("embed", "head"))``.

    >>> model = torch.nn.Linear(3, 3)
    >>> opt = Muon(model.named_parameters(), lr=0.1)
    >>> model(torch.ones(1, 3)).sum().backward(); opt.step()
    >>> sorted(opt.state()[0])
    ['grad_avg.bias', 'grad_avg.weight', 'sqr_avg.bias']
    """
    others: list[Step] = [average_grad, average_sqr_grad, adam_step]
    steps: list[Step] = [weight_decay, Either(matrices, [muon_step], others)]
    return Optimizer(params, steps, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


def Lookahead(opt: Optimizer, k: int = 6, alpha: float = 0.5) -> Optimizer:
    """Returns `opt` with slow weights that follow it (Zhang et al., arXiv:1907.08610).

    Every `k` steps of a parameter its slow weights go the part `alpha` of the way to it, and it goes there too. Evaluated
    are the weights as they are, as in fastai; right after such a step they are the slow ones.

    Args:
        opt: any optimizer made of steps; it is not to be used any more. A Learner's is
            ``opt_func=lambda params, lr: Lookahead(Adam(params, lr))``.
        k: steps between.
        alpha: part of the way.

    Raises:
        ConfigError: `opt` is not an `Optimizer`, or has taken steps.

    >>> w = torch.nn.Parameter(torch.ones(1))
    >>> opt = Lookahead(SGD([w], lr=0.25), k=2)
    >>> for _ in range(2):
    ...     w.grad = torch.ones(1); opt.step()
    >>> w.item()  # SGD went from 1 to 0.5: half the way back
    0.75
    """
    if not isinstance(opt, Optimizer):
        raise ConfigError(
            f"Lookahead wraps an optimizer made of steps, and a {type(opt).__name__} is none; give Lookahead(Adam(...))"
        )
    if any(opt.state()[1]["steps"].values()):
        raise ConfigError("Lookahead wraps an optimizer that has taken no step; wrap it when it is made")
    steps = [lookahead_begin, *opt.steps, lookahead_step]
    hypers: dict[str, Any] = {**opt.defaults, "k": k, "alpha": alpha}
    return Optimizer(opt.groups, steps, average=opt.average, sparse=opt.sparse, **hypers)


def Ranger(
    params: Params,
    lr: float = 1e-3,
    mom: float = 0.95,
    sqr_mom: float = 0.99,
    eps: float = 1e-6,
    wd: float = 0.01,
    *,
    k: int = 6,
    alpha: float = 0.5,
    decouple_wd: bool = True,
) -> Optimizer:
    """Returns Ranger (Wright, 2019): `Lookahead` around `RAdam`.

    >>> Ranger([torch.nn.Parameter(torch.ones(1))]).kind
    'lookahead_begin, weight_decay, average_grad, average_sqr_grad, radam_step, lookahead_step'
    """
    return Lookahead(RAdam(params, lr, mom, sqr_mom, eps, wd, decouple_wd=decouple_wd), k, alpha)
