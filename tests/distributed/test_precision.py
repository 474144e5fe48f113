"""In which type a model computes, and what stays float32."""

from __future__ import annotations

import math
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn

from dist_ai.distributed.strategies import precision_of
from dist_ai.distributed.strategies.precision import PRECISIONS
from dist_ai.errors import ConfigError

CPU = torch.device("cpu")
Pair = namedtuple("Pair", "first second")


class Output(OrderedDict[str, Any]):
    """What transformers return: a dict whose values are attributes too."""


class Structured(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.layer, self.make = nn.Linear(3, 3), make
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: torch.Tensor) -> Any:
        y = self.layer(x)
        self.dtypes.append(y.dtype)
        return self.make(y, torch.arange(2))


@pytest.mark.parametrize(
    ("name", "inside"), [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)]
)
@pytest.mark.parametrize(
    "make",
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: {"a": a, "b": b},
        Pair,
        lambda a, b: Output(a=a, b=b),
    ],
    ids=["tuple", "list", "dict", "named tuple", "transformers"],
)
def test_the_model_computes_in_the_type_and_what_comes_of_it_is_float32(
    name: str, inside: torch.dtype, make: Any
) -> None:
    model = Structured(make)
    output = precision_of(name, CPU).forward(model, (torch.ones(2, 3),))
    assert model.dtypes == [inside]
    assert type(output) is type(make(torch.ones(1), torch.ones(1)))
    floating, whole = output.values() if isinstance(output, dict) else output
    assert floating.dtype == torch.float32
    assert whole.dtype == torch.int64
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_autocast_is_over_after_an_error_in_the_model() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        precision_of("bf16", CPU).forward(Broken(), (torch.ones(1),))
    assert not torch.is_autocast_enabled("cpu")


def test_fp16_scales_the_loss_and_gives_gradients_back_in_their_own_size() -> None:
    model = nn.Linear(3, 1)
    precision = precision_of("fp16", CPU)
    precision.backward(model(torch.ones(2, 3)).sum())
    assert model.weight.grad is not None
    assert model.weight.grad.max() == 2 * 65536
    assert precision.unscale(model.parameters())
    assert model.weight.grad.max() == 2
    precision.update()


def test_fp16_says_when_a_gradient_overflowed_and_lowers_its_scale() -> None:
    model = nn.Linear(3, 1)
    precision = precision_of("fp16", CPU)
    assert precision.may_overflow
    precision.backward(model(torch.full((2, 3), math.inf)).sum())
    assert not precision.unscale(model.parameters())
    precision.update()
    assert precision.state()["scale"] == 32768.0


def test_a_step_without_any_gradient_is_no_overflow() -> None:
    precision = precision_of("fp16", CPU)
    assert precision.unscale(nn.Linear(1, 1).parameters())
    precision.update()
    assert precision.state()["scale"] == 65536.0


def test_the_scale_goes_on_where_a_checkpoint_left_it() -> None:
    one, other = precision_of("fp16", CPU), precision_of("fp16", CPU)
    model = nn.Linear(3, 1)
    one.backward(model(torch.full((1, 3), math.inf)).sum())
    one.unscale(model.parameters())
    one.update()
    other.load_state(one.state())
    assert other.state() == one.state() != precision_of("fp16", CPU).state()


def test_tf32_is_on_for_the_fit_only() -> None:
    def switches() -> list[str]:
        return [torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision]

    before = switches()
    with precision_of("tf32", CPU).active():
        assert switches() == ["tf32", "tf32"]
    assert switches() == before
    with precision_of("fp32", CPU).active():
        assert switches() == before


def test_an_unknown_precision_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError) as refused:
        precision_of("bf61", CPU)
    assert str(refused.value) == "precision='bf61'; did you mean 'bf16'?; expected fp32, tf32, bf16, fp16"
    assert PRECISIONS == ("fp32", "tf32", "bf16", "fp16")
