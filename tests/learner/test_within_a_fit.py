"""What callbacks may do with the Learner in the middle of a fit, and what goes on from one fit to the next."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from toy import make_data, make_model

from dist_ai.callbacks import Callback
from dist_ai.data import DataLoader, DataLoaders, TensorData
from dist_ai.errors import ConfigError, DistAIError
from dist_ai.learner import Learner
from dist_ai.losses import CrossEntropyLoss
from dist_ai.optimizer import SGD, ScheduleFreeAdamW

OPT_FUNCS: dict[str, Any] = {"SGD": SGD, "schedule-free": partial(ScheduleFreeAdamW, mom=0.8)}


def learner(opt: str = "SGD", **options: Any) -> Learner:
    x, y = make_data()
    loaders = DataLoaders(DataLoader(TensorData(x, y), 4, shuffle=True), DataLoader(TensorData(x, y), 4))
    model = make_model(batch_norm=True)
    defaults: dict[str, Any] = {"opt_func": OPT_FUNCS[opt], "lr": 0.1, "run_dir": None, "progress": False}
    return Learner(loaders, model, CrossEntropyLoss(), **{**defaults, **options})


class LooksAside(Callback):
    """Validates and predicts in the middle of every training batch."""

    may_cancel = False

    def after_loss(self) -> None:
        if self.state.training:
            self.learn.validate()  # type: ignore[attr-defined]
            self.learn.get_preds()  # type: ignore[attr-defined]


def train(aside: bool, opt: str) -> list[float]:
    learn = learner(opt, cbs=[LooksAside()] if aside else [])
    learn.fit(2)
    parameters = [p.detach().ravel() for p in learn.model.parameters()]
    return torch.cat(parameters).tolist() + learn.recorder.losses


@pytest.mark.parametrize("opt", OPT_FUNCS)
def test_validating_in_the_middle_of_a_batch_changes_nothing(spawn: Any, opt: str) -> None:
    for world_size in (1, 2):
        [plainly, *_] = spawn(world_size, train, aside=False, opt=opt)
        for rank in spawn(world_size, train, aside=True, opt=opt):
            assert rank == plainly


def only_rank_0_has_a_callback() -> list[float]:
    from dist_ai.distributed import current_world

    learn = learner(cbs=[Callback()] if current_world().is_main else [])
    learn.fit(1)
    return learn.recorder.losses


def test_a_callback_on_one_rank_only_does_not_hang_the_others(spawn: Any) -> None:
    first, second = spawn(2, only_rank_0_has_a_callback)
    assert first == second


def exports_what_cannot_be(folder: str) -> str:
    learn = learner()
    try:
        learn.export(folder)
    except DistAIError as error:
        learn.validate()  # the ranks are in step
        return f"{type(error).__name__}: {error}"
    return "exported"


def test_an_export_that_fails_on_rank_0_fails_on_all(spawn: Any, tmp_path: Any) -> None:
    first, second = spawn(2, exports_what_cannot_be, folder=str(tmp_path / "model"))
    assert first.startswith(("ConfigError", "DataError"))
    assert second.startswith("WorldError: rank 1: the export to")
    assert second.endswith(first)


def test_every_epoch_of_a_program_has_an_order_of_its_own() -> None:
    orders: list[list[int]] = []

    class Notes(Callback):
        def before_batch(self) -> None:
            if self.state.training:
                orders[-1].extend(self.state.share.indices.tolist())  # type: ignore[union-attr]

        def before_epoch(self) -> None:
            orders.append([])

    learn = learner(cbs=Notes())
    learn.fit(2)
    learn.fit(1)
    assert [sorted(order) for order in orders] == [list(range(len(orders[0])))] * 3
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_a_checkpoint_stands_between_two_steps(tmp_path: Any) -> None:
    class Saves(Callback):
        def after_epoch(self) -> None:
            self.learn.save_checkpoint()

    x, y = make_data()
    loaders = DataLoaders(DataLoader(TensorData(x, y), 4), DataLoader(TensorData(x, y), 4))
    learn = Learner(loaders, make_model(), CrossEntropyLoss(), run_dir=tmp_path / "run", progress=False, cbs=Saves())
    with pytest.raises(ConfigError, match="a checkpoint stands between two training steps; write it in after_batch"):
        learn.fit(1)
