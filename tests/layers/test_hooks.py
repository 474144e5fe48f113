"""Looking inside a model while it runs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dist_ai.layers import Hook, Hooks, hook_outputs, output_sizes


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 2))


def test_outputs_are_kept_without_their_graph_until_the_hooks_are_removed() -> None:
    model, x = make_model().eval(), torch.ones(5, 4)
    with hook_outputs(model, cpu=True) as hooks:
        out = model(x)
    assert torch.equal(hooks.stored[2], out)
    assert not hooks.stored[2].requires_grad
    model(torch.zeros(5, 4))
    assert torch.equal(hooks[2].stored, out)
    assert [hook.stored.shape for hook in hooks] == [(5, 3), (5, 3), (5, 2)]
    assert len(hooks) == 3


def test_the_graph_is_kept_if_asked_for() -> None:
    model = make_model()
    with hook_outputs([model[0]], detach=False) as hooks:
        model(torch.ones(5, 4))
    hooks.stored[0].sum().backward()
    assert model[0].weight.grad is not None


def test_gradients_of_outputs_are_those_of_autograd() -> None:
    model = make_model().eval()
    hidden = model[0](torch.ones(5, 4))
    expected = torch.autograd.grad(model[2](hidden).square().sum(), hidden)[0]
    with hook_outputs([model[0]], grad=True) as hooks:
        model(torch.ones(5, 4)).square().sum().backward()
    torch.testing.assert_close(hooks.stored[0], expected)


def test_hooks_are_removed_on_every_way_out() -> None:
    model, seen = make_model(), []
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), Hooks(model, lambda *_: seen.append(1)):
        model(torch.ones(5, 9))
    with pytest.raises(ZeroDivisionError), Hook(model[0], lambda *_: seen.append(1)):
        raise ZeroDivisionError
    model(torch.ones(5, 4))
    assert seen == []


def test_sizes_are_measured_without_a_trace() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert output_sizes(model, torch.ones(2, 3, 8, 8)) == {"0": (2, 8, 6, 6), "1": (2, 8, 6, 6), "2": (2, 288)}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
