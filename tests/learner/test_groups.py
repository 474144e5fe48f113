"""Parameter groups: splitting, freezing, decay, and learning rates by group."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_ai.errors import ConfigError
from dist_ai.learner.groups import freeze_to, layer_groups, learning_rates, one_group, param_groups


def make_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.GroupNorm(2, 4)),
        nn.Linear(4, 2),
    )


def in_three(model: Any) -> list[list[nn.Parameter]]:
    return [list(part.parameters()) for part in model]


def trained(model: nn.Module) -> list[str]:
    return [name for name, p in model.named_parameters() if p.requires_grad]


def test_a_number_is_every_groups_learning_rate() -> None:
    assert learning_rates(0.1, 3) == [0.1, 0.1, 0.1]
    assert learning_rates(1, 2) == [1.0, 1.0]


def test_a_slice_with_an_end_gives_the_last_group_ten_times_the_others_rate() -> None:
    assert learning_rates(slice(1e-2), 3) == [1e-3, 1e-3, 1e-2]
    assert learning_rates(slice(1e-2), 1) == [1e-2]


def test_a_slice_from_first_to_last_is_even_in_ratio() -> None:
    assert learning_rates(slice(1e-5, 1e-3), 3) == [1e-5, 1e-4, 1e-3]
    assert learning_rates(slice(1e-5, 1e-3), 1) == [1e-3]


@given(st.floats(1e-8, 10), st.floats(1e-8, 10), st.integers(2, 9))
def test_a_slices_rates_begin_and_end_where_it_says_and_rise_by_one_factor(
    first: float, last: float, count: int
) -> None:
    rates = learning_rates(slice(first, last), count)
    assert (rates[0], rates[-1]) == (pytest.approx(first, rel=1e-9), pytest.approx(last, rel=1e-9))
    steps = [math.log(b / a) for a, b in itertools.pairwise(rates)]
    assert steps == pytest.approx([math.log(last / first) / (count - 1)] * (count - 1), abs=1e-8)


def test_a_list_gives_each_group_its_own() -> None:
    assert learning_rates([1, 0.0, 0.5], 3) == [1.0, 0.0, 0.5]


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        ("1e-3", "lr='1e-3': a learning rate is a number, such as 1e-3, a slice, or 3 numbers"),
        ([0.1, 0.2], "lr has 2 values for 3 parameter groups; give a number, a slice or 3 values"),
        (slice(0.1, None), "lr=slice(0.1, None, None) is not slice(last) or slice(first, last)"),
        (slice(0.1, 0.2, 3), "lr=slice(0.1, 0.2, 3) is not slice(last) or slice(first, last)"),
        (slice(0, 0.2), "lr=slice(0, 0.2, None): the learning rates of a slice are more than 0"),
        (slice(-0.2), "lr=slice(None, -0.2, None): the learning rates of a slice are more than 0"),
        (float("nan"), "lr=nan: a learning rate is finite, and 0 or more"),
        (-0.1, "lr=-0.1: a learning rate is finite, and 0 or more"),
        ([0.1, float("inf"), 0.1], "lr=[0.1, inf, 0.1]: a learning rate is finite, and 0 or more"),
    ],
)
def test_learning_rates_that_cannot_work_are_refused(lr: Any, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        learning_rates(lr, 3)
    assert str(refused.value) == message


def test_groups_carry_the_parameters_names() -> None:
    model = make_model()
    assert [list(group) for group in layer_groups(model, one_group)] == [[name for name, _ in model.named_parameters()]]
    first, second, third = layer_groups(model, in_three)
    assert list(first) == ["0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"]
    assert list(third) == ["2.weight", "2.bias"]
    assert second["1.0.weight"] is model[1][0].weight


def test_a_splitter_that_forgets_parameters_or_has_them_twice_is_refused() -> None:
    model = make_model()
    with pytest.raises(ConfigError) as refused:
        layer_groups(model, lambda m: in_three(m)[1:])
    assert str(refused.value) == (
        "the splitter's groups hold 5 of the model's 9 parameters; missing: 0.0.bias, 0.0.weight, 0.1.bias"
    )
    with pytest.raises(ConfigError, match="hold 18 of the model's 9 parameters; some are there twice"):
        layer_groups(model, lambda m: in_three(m) * 2)


def test_what_a_model_has_frozen_may_be_in_no_group_and_stays_frozen() -> None:
    model = make_model()
    model[0].requires_grad_(False)

    def rest(m: Any) -> Any:
        return in_three(m)[1:]

    assert len(layer_groups(model, rest)) == 2
    freeze_to(model, rest, 0, train_bn=True)
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 5


def test_biases_and_normalisation_do_not_decay_unless_asked_to() -> None:
    model = make_model()
    decaying = [
        name
        for group in param_groups(model, in_three, wd_bn_bias=False)
        for name, decays in zip(group.names, group.decays, strict=True)
        if decays
    ]
    assert decaying == ["0.0.weight", "1.0.weight", "2.weight"]
    assert all(all(group.decays) for group in param_groups(model, in_three, wd_bn_bias=True))


def test_freezing_counts_groups_from_either_end_and_unfreezes_the_rest() -> None:
    model = make_model()
    freeze_to(model, in_three, 2, train_bn=False)
    assert trained(model) == ["2.weight", "2.bias"]
    freeze_to(model, in_three, -2, train_bn=False)
    assert trained(model) == ["1.0.weight", "1.1.weight", "1.1.bias", "2.weight", "2.bias"]
    freeze_to(model, in_three, 0, train_bn=False)
    assert len(trained(model)) == 9


def test_batch_norm_learns_in_frozen_groups_and_other_norms_do_not() -> None:
    model = make_model()
    freeze_to(model, in_three, -1, train_bn=True)
    assert trained(model) == ["0.1.weight", "0.1.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("n", [3, -3, 7])
def test_freezing_more_groups_than_there_are_is_refused(n: int) -> None:
    with pytest.raises(ConfigError) as refused:
        freeze_to(make_model(), in_three, n, train_bn=True)
    assert str(refused.value) == f"freeze_to({n}) of 3 group(s): expected -2 to 2"
