"""How the hyper-parameters go over a fit, by the policies that have a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dist_ai.errors import ConfigError
from dist_ai.optimizer import flat_cos, one_cycle, sgdr
from dist_ai.optimizer.optimizer import AnyOptimizer
from dist_ai.optimizer.schedules import Schedule

__all__ = ["Policy", "flat_cos_policy", "one_cycle_policy", "sgdr_policy"]


class Policy(NamedTuple):
    """The course of a fit.

    Attributes:
        facts: what it was asked for by, as plain data: a run that goes on must be asked the same.
        schedules: by hyper-parameter; one for all groups, or one for each.
    """

    facts: Mapping[str, Any] = {}
    schedules: Mapping[str, Schedule | Sequence[Schedule]] = {}


def one_cycle_policy(
    opt: AnyOptimizer,
    peaks: Sequence[float],
    *,
    div: float,
    div_final: float,
    pct_start: float,
    moms: tuple[float, float, float] | None,
    usual_moms: tuple[float, float, float],
) -> Policy:
    """Returns the 1cycle policy (Smith, arXiv:1803.09820).

    Args:
        opt: one made without momentum stays so, unless momenta are asked for.
        peaks: learning rate of each group.
        div, div_final, pct_start, moms: see `Learner.fit_one_cycle`.
        usual_moms: the momenta where none are asked for.
    """
    rates = [one_cycle(peak / div, peak, peak / div_final, pct_start) for peak in peaks]
    schedules: dict[str, Schedule | Sequence[Schedule]] = {"lr": rates}
    if opt.has_hyper("mom") and (moms or any(opt.get_hyper("mom"))):
        schedules["mom"] = one_cycle(*(moms or usual_moms), pct_start)
    facts = {"lr_max": list(peaks), "div": div, "div_final": div_final, "pct_start": pct_start}
    return Policy(facts, schedules)


def flat_cos_policy(rates: Sequence[float], *, div_final: float, pct_start: float) -> Policy:
    """Returns a constant part and then a fall along a cosine, by `div_final`, from `pct_start` of the steps on.

    Raises:
        ConfigError: `pct_start` is no share.
    """
    if not 0 < pct_start < 1:
        raise ConfigError(f"pct_start={pct_start} is the share of the constant part: expected between 0 and 1")
    falls = [flat_cos(rate, rate / div_final, pct_start) for rate in rates]
    return Policy({"div_final": div_final, "pct_start": pct_start}, {"lr": falls})


def sgdr_policy(peaks: Sequence[float], n_cycles: int, cycle_len: int, cycle_mult: int) -> Policy:
    """Returns cycles in each of which the rate falls along a cosine to 0 (SGDR, arXiv:1608.03983)."""
    facts = {"n_cycles": n_cycles, "cycle_len": cycle_len, "cycle_mult": cycle_mult}
    return Policy(facts, {"lr": [sgdr(peak, num_cycles=n_cycles, mult=cycle_mult) for peak in peaks]})
