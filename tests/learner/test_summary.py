"""What a model is and costs, and the loop with its callbacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import BS, Spy, make_dls, make_learner, make_model, weights_of

from dist_ai.callbacks import CancelBatch, on
from dist_ai.optimizer import Adam


def test_a_summary_tells_layers_shapes_parameters_flops_and_what_is_frozen() -> None:
    model = make_model(torch.float64, batch_norm=True)
    learn = make_learner(dls=make_dls(bs=7), model=model, splitter=in_two, opt_func=Adam)  # 7, 7 and 3
    learn.freeze()
    summary = learn.summary()
    rows = [(layer.name, layer.kind, layer.shape, layer.num_params, layer.learns) for layer in summary.layers]
    assert rows == [
        ("0", "Linear", (7, 6), 30, "no"),
        ("1", "BatchNorm1d", (7, 6), 12, "yes"),  # train_bn
        ("2", "Tanh", (7, 6), 0, ""),
        ("3", "Linear", (7, 3), 21, "yes"),
    ]
    assert (summary.num_params, summary.num_trainable, summary.batch_size) == (63, 33, 7)
    assert summary.flops == 2 * 4 * 6 + 2 * 6 * 3  # one multiplication and one addition a weight and sample
    assert summary.param_bytes == 8 * (63 + 2 * 6 + 1)
    assert summary.gradient_bytes == 8 * 33
    assert summary.activation_bytes == 8 * 7 * (3 * 6 + 3)
    assert summary.state_bytes == 0
    learn.fit(1)
    assert learn.summary().state_bytes == 2 * 8 * 33
    text = str(summary)
    assert "parameters  63, of which 33 learn and 30 are frozen" in text
    assert "0      Linear       7 x 6           30      no" in text
    assert "optimizer" in text


def in_two(model: nn.Module) -> list[list[nn.Parameter]]:
    parameters = list(model.parameters())
    return [parameters[:4], parameters[4:]]


def test_a_summary_changes_nothing() -> None:
    learn = make_learner(model=make_model(batch_norm=True))
    learn.model.train()
    before, drawn = weights_of(learn.model), torch.get_rng_state()
    learn.summary()
    assert torch.equal(weights_of(learn.model), before)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(module.training for module in learn.model.modules())
    assert not any(module._forward_hooks for module in learn.model.modules())


class Tangled(nn.Module):
    """Has a layer that is used twice, one that is not used, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.twice = nn.Linear(4, 4).double()
        self.out = nn.Linear(4, 3).double()
        self.never = nn.Linear(2, 2).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.twice(self.twice(x))) * self.scale


def test_a_model_that_is_no_plain_sequence_is_summed_up_too() -> None:
    rows = {layer.name: layer for layer in make_learner(model=Tangled()).summary().layers}
    assert set(rows) == {"twice", "out", "Tangled", "never"}
    assert rows["never"].shape == ()
    assert rows["Tangled"].num_params == 1
    assert rows["twice"].flops == 2 * BS * 2 * 16


def test_the_training_loop_is_shown_with_the_callbacks_at_their_events(capsys: pytest.CaptureFixture[str]) -> None:
    def skip(_: object) -> None:
        raise CancelBatch

    learn = make_learner(cbs=[on("after_loss", skip, every=5)])
    learn.show_training_loop()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Learner.fit"
    assert "  before_fit              Recorder, SkippedSamples" in lines
    [after_loss] = [line for line in lines if line.strip().startswith("after_loss") and "on(" in line][:1]
    assert after_loss.split()[0] == "after_loss"
    assert "skip" in after_loss
    assert "          opt.step()" in lines
    with learn.added_cbs(Spy()):
        learn.show_training_loop()
    shown = capsys.readouterr().out
    assert shown.count("Spy") == 27
