"""Models of texts give the same numbers on any number of processes: dropout, carried state, padding and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from texts import classifier, language_model, loaders

from dist_ai.callbacks import Callback
from dist_ai.distributed.strategies import FSDP
from dist_ai.metrics import Perplexity, accuracy


def language(arch: str, strategy: str = "auto") -> dict[str, Any]:
    learn = language_model(
        loaders(num=40, is_lm=True, bs=5, seq_len=7), arch, metrics=Perplexity(), **_strategy(strategy)
    )
    learn.model.double()
    learn.fit_one_cycle(2, 1e-2)
    return _told(learn)


def classes(arch: str, strategy: str = "auto") -> dict[str, Any]:
    learn = classifier(loaders(num=50, bs=9), arch, metrics=accuracy, seq_len=6, max_len=12, **_strategy(strategy))
    learn.model.double()
    learn.freeze()
    learn.fit_one_cycle(1, 1e-2)
    learn.freeze_to(-2)
    learn.fit_one_cycle(1, slice(1e-3, 1e-2))
    told = _told(learn)
    told["predictions"] = learn.get_preds()[0].double().numpy()
    return told


def _strategy(name: str) -> dict[str, Any]:
    return {"strategy": FSDP(min_block_parameters=100)} if name == "fsdp" else {}


def _told(learn: Any) -> dict[str, Any]:
    return {"losses": learn.recorder.losses, "final": learn.recorder.final}


@pytest.mark.parametrize(("what", "arch"), [(language, "awd_lstm"), (classes, "awd_lstm")])
def test_in_float64_the_numbers_agree_on_1_2_and_3_processes_to_the_last_digits(
    spawn: Any, what: Any, arch: str
) -> None:
    check(spawn, what, arch, [2, 3])


@pytest.mark.slow
@pytest.mark.parametrize(("what", "arch"), [(language, "gpt"), (classes, "transformer"), (classes, "gpt")])
def test_those_of_transformers_agree_too(spawn: Any, what: Any, arch: str) -> None:
    check(spawn, what, arch, [2, 3])


@pytest.mark.parametrize(("what", "arch"), [(language, "awd_lstm"), (classes, "awd_lstm")])
def test_shared_by_the_ranks_a_model_learns_the_same(spawn: Any, what: Any, arch: str) -> None:
    check(spawn, what, arch, [2], strategy="fsdp")


def check(spawn: Any, what: Any, arch: str, sizes: list[int], strategy: str = "auto") -> None:
    """Runs a program on one process and on others, and compares all that it tells."""
    [alone] = spawn(1, what, arch=arch)
    assert torch.tensor(alone["losses"]).isfinite().all()
    for size in sizes:
        for rank in spawn(size, what, arch=arch, strategy=strategy):
            for name, value in alone.items():
                torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)


def carried_on(run_dir: str, stop_at: int | None) -> Any:
    """Trains a language model in a run directory; interrupted behind a step, or to its end."""
    stop = [StopBehind(stop_at)] if stop_at is not None else []
    learn = language_model(
        loaders(num=40, is_lm=True, bs=5, seq_len=7),
        run_dir=run_dir,
        checkpoint_every_s=None,
        checkpoint_every_steps=1,
        cbs=stop,
    )
    learn.model.double()
    try:
        learn.fit_one_cycle(2, 1e-2)
    except KeyboardInterrupt:
        return None
    return {"losses": learn.recorder.losses, "weights": learn.model.encoder.layers[0].weight_hh.detach().numpy()}


class StopBehind(Callback):
    """Ends the fit behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_batch(self) -> None:
        """Stops."""
        if self.state.training and self.state.step == self.step:
            raise KeyboardInterrupt


def test_a_language_model_that_is_stopped_goes_on_with_its_carried_state_on_more_ranks(
    spawn: Any, tmp_path: Path
) -> None:
    whole, *_ = spawn(2, carried_on, run_dir=str(tmp_path / "whole"), stop_at=None)
    assert spawn(2, carried_on, run_dir=str(tmp_path / "stopped"), stop_at=3) == [None, None]
    for rank in spawn(3, carried_on, run_dir=str(tmp_path / "stopped"), stop_at=None):
        for name, value in whole.items():
            torch.testing.assert_close(torch.as_tensor(rank[name]), torch.as_tensor(value), rtol=1e-8, atol=1e-8)
