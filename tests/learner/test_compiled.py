"""A compiled model never meets a semantic type: it trains in a Learner without a single graph break."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pictures import image_folder, small_loaders
from torch import nn

from dist_ai.core import TensorCategory
from dist_ai.core.vision_types import TensorImage
from dist_ai.learner import Learner
from dist_ai.vision import Normalize, aug_transforms, imagenet_stats


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(120, 2))


def typed_loaders(folder: Path) -> Any:
    return small_loaders(folder, batch_tfms=[*aug_transforms(), Normalize(*imagenet_stats)], bs=4)


def train(folder: Path, net: nn.Module) -> tuple[list[float], torch.Tensor]:
    dls = typed_loaders(folder)
    assert [type(each) for each in dls.one_batch()] == [TensorImage, TensorCategory]
    learn = Learner(dls, net, run_dir=None, progress=False)
    learn.fit(2, 1e-3)
    learn.show_results(2)
    return [*learn.recorder.losses, *learn.recorder.final], learn.get_preds()[0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return image_folder(tmp_path)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_model_compiled_as_one_graph_trains_on_typed_batches_and_gives_the_same_numbers(
    folder: Path, backend: str
) -> None:
    losses, predictions = train(folder, model())
    # With fullgraph=True a graph break is an error, and training would end in it.
    compiled_losses, compiled_predictions = train(folder, torch.compile(model(), backend=backend, fullgraph=True))
    assert compiled_losses == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(compiled_predictions, predictions, rtol=1e-4, atol=1e-5)


def test_of_the_learners_batches_the_compiler_makes_one_graph_and_meets_no_type(folder: Path) -> None:
    met: list[set[type]] = []

    def look(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        met.append({type(each) for each in inputs if not isinstance(each, nn.Parameter)})
        return graph.forward

    net = torch.compile(model(), backend=look, fullgraph=True)
    learn = Learner(typed_loaders(folder), net, run_dir=None, progress=False)
    learn.fit(1, 1e-3)
    assert len(met) == 2  # one to train, one to validate
    assert set().union(*met) == {torch.Tensor}


def test_a_model_that_breaks_its_graph_by_itself_is_not_helped(folder: Path) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = model()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return self.net(x)

    learn = Learner(
        typed_loaders(folder), torch.compile(Breaks(), backend="eager", fullgraph=True), run_dir=None, progress=False
    )
    with pytest.raises(torch._dynamo.exc.Unsupported, match=re.compile("graph.break", re.IGNORECASE)):
        learn.fit(1, 1e-3)
