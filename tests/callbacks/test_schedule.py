"""Hyper-parameters that change step by step."""

from __future__ import annotations

import pytest
from toy import make_learner, make_model

from dist_ai.callbacks import Callback, ParamScheduler
from dist_ai.errors import ConfigError
from dist_ai.optimizer import SGD, cosine


class Hypers(Callback):
    """Writes down a hyper-parameter at every batch."""

    may_cancel = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.training: list[list[float]] = []
        self.validation: list[list[float]] = []

    def after_loss(self) -> None:
        values = self.learn.opt.get_hyper(self.name)
        (self.training if self.state.training else self.validation).append(values)


def test_every_step_gets_the_value_of_the_part_of_the_fit_that_is_done() -> None:
    seen = Hypers("lr")
    learn = make_learner(cbs=seen)
    learn.fit(2, cbs=ParamScheduler({"lr": lambda done: 1 + done}))
    assert seen.training == [[1 + step / 6] for step in range(6)]
    assert seen.validation == [[1 + 2 / 6]] * 3 + [[1 + 5 / 6]] * 3  # what the last step had
    assert learn.recorder.lrs == [1 + step / 6 for step in range(6)]


def test_groups_have_schedules_of_their_own() -> None:
    model = make_model()
    seen = Hypers("lr")
    learn = make_learner(model=model, splitter=lambda m: [list(m[0].parameters()), list(m[-1].parameters())], cbs=seen)
    learn.fit(1, cbs=ParamScheduler({"lr": [cosine(1.0, 0.0), cosine(2.0, 0.0)]}))
    for step, (first, second) in enumerate(seen.training):
        assert (first, second) == (cosine(1.0, 0.0)(step / 3), cosine(2.0, 0.0)(step / 3))


def test_what_cannot_be_scheduled_is_an_error_before_the_first_batch() -> None:
    learn = make_learner(opt_func=SGD)
    with pytest.raises(ConfigError, match=r"this optimizer has no hyper-parameter 'mon'; did you mean 'mom'\?"):
        learn.fit(1, cbs=ParamScheduler({"mon": cosine(0.9, 0.8)}))
    with pytest.raises(ConfigError, match="lr has 2 values for 1 parameter groups; give one number or 1"):
        learn.fit(1, cbs=ParamScheduler({"lr": [cosine(0.9, 0.8)] * 2}))
    assert learn.recorder.losses == []
