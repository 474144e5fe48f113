"""`dist-ai plan`: what a model needs and gets, without a GPU; and one clear line for what cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dist_ai.cli.main import main

MODELS = '''
import torch
from torch import nn


class Language(nn.Module):
    """Tokens to tokens; 24 blocks of 1 M parameters."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1000, 512)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(512, 1024), nn.GELU(), nn.Linear(1024, 512)) for _ in range(24)])

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = x + block(x)
        return x @ self.embedding.weight.T


def language():
    return Language()


class Wide(nn.Module):
    """One block of 4 M parameters, which states how ranks may compute it together."""

    tensor_parallel_plan = {"up": "colwise", "down": "rowwise"}

    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(128, 16384), nn.Linear(16384, 128)

    def forward(self, x):
        return self.down(self.up(x).relu())


class Looks(Wide):
    def forward(self, x):
        if x.sum().item() > 0:
            x = -x
        return super().forward(x)


class Convs(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 3))


def nothing():
    return 3


def of_width(n):
    return nn.Linear(n, n)
'''


@pytest.fixture
def plan(capsys: pytest.CaptureFixture[str]) -> Any:
    """Returns `plan(*arguments)`: the exit code, and what went to standard output and to standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(["plan", *map(str, arguments)])
        said = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def cells(out: str) -> dict[str, list[str]]:
    """Returns the table's rows by their label."""
    lines = [line for line in out.splitlines() if not line.startswith("(")]
    return {line[:16].strip(): line[16:].split() for line in lines[2:10]}


def test_a_torchvision_model_on_eight_gpus(plan: Any) -> None:
    code, out, err = plan("resnet18", "--bs", 60, "--gpus", 8, "--memory", 16, "--input", "3,64,64")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == (
        "resnet18: 11,689,512 parameters; 60 samples of 3,64,64 a step on 8 GPU(s) of 16 GiB, 8 on each, fp32, adam"
    )
    assert lines[1].split("  ")[-1].strip() == "fsdp + ac"
    rows = cells(out)
    assert rows["parameters"] == ["0.04", "0.04", "0.01", "0.01"]
    assert rows["optimizer"] == ["0.09", "0.09", "0.01", "0.01"]
    assert rows["fits"] == ["yes"] * 4
    assert lines[-1] == (
        "strategy='auto' would choose ddp: parameters, gradients and optimizer state take 0.2 GiB of the 16.0 GiB on each "
        "device, so each holds them all."
    )


def test_a_small_model_is_told_in_small_units(plan: Any) -> None:
    _, out, _ = plan("small_cnn", "--input", "3,32,32", "--bs", 8)
    assert out.splitlines()[1].startswith("MiB a GPU ")
    assert cells(out)["parameters"] == ["0.29", "0.29"]
    assert "take 1.2 MiB of the 16.0 GiB on each device" in out


def test_a_model_of_ones_own_that_is_too_large_for_each_gpu_is_shared(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    arguments = [f"{tmp_path / 'models.py'}:language", "--input", "64", "--dtype", "int64", "--gpus", 4]
    _, out, _ = plan(*arguments, "--bs", 16, "--memory", 0.6)
    assert (
        "strategy='auto' would choose fsdp: parameters, gradients and optimizer state take 0.4 GiB, more than 60% "
        in out
    )
    few, many = (cells(plan(*arguments, "--bs", bs, "--memory", 0.6)[1]) for bs in (64, 1024))
    assert few["parameters"] == many["parameters"]
    ratio = float(many["activations"][0]) / float(few["activations"][0])
    assert ratio == pytest.approx(16, rel=0.1)
    assert float(many["activations"][1]) < float(many["activations"][0]) / 2


def test_what_would_fit_is_said_where_the_choice_does_not(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    arguments = [f"{tmp_path / 'models.py'}:language", "--input", "64", "--dtype", "int64", "--bs", 1024]
    _, out, _ = plan(*arguments, "--memory", 6)
    assert out.endswith("With this batch it would not fit; strategy=DDP(activation_checkpointing=True) would.\n")
    _, out, _ = plan(*arguments, "--memory", 0.5, "--gpus", 2)
    assert out.endswith(
        "Nothing fits on 2 GPU(s): use more or larger ones, a smaller batch, or gradient accumulation.\n"
    )


def test_gpus_that_compute_each_layer_together_hold_a_part_of_it(plan: Any, tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    arguments = [f"{tmp_path / 'models.py'}:Wide", "--input", "128", "--bs", 8, "--gpus", 8]
    _, out, _ = plan(*arguments, "--tensor-parallel", 4, "--memory", 1)
    head = out.splitlines()[1]
    assert head.startswith("MiB a GPU ")
    assert head.split("  ")[-1].strip() == "tp 4 + fsdp + ac"
    assert "(ac: activation checkpointing, tp: tensor parallel)" in out
    label, *rows = (line.split() for line in out.splitlines()[2:5])
    parameters = [float(each) for each in label[1:]]
    assert parameters == pytest.approx([16.06] * 2 + [2.01] * 2 + [4.02] * 2 + [2.01] * 2, abs=0.01)
    assert all(len(row) == 9 for row in rows)
    _, out, _ = plan(*arguments, "--tensor-parallel", 8, "--memory", 0.02)
    assert out.endswith(
        "With this batch it would not fit; strategy=TensorParallel(size=8, data_parallel=DDP()) would.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["resnet18", "--gpus", "8", "--tensor-parallel", "2"],
            "TensorParallel(size=2): ResNet states no plan, and may divide fc (1 of 1000 x 512); give one, as TensorParallel("
            "plan, size=2) or model.tensor_parallel_plan = plan, such as plan = {'fc': 'colwise_gather_output'}",
        ),
        (
            ["MODELS:Convs", "--gpus", "8", "--tensor-parallel", "2"],
            "Convs states no plan, and has no Linear and no Embedding, which are what is divided; use FSDP(), which divides any",
        ),
        (
            ["MODELS:Looks", "--input", "128"],
            "Looks looks at the numbers that it computes, of which a plan has none: it follows shapes alone "
            "(aten._local_scalar_dense.default; ",
        ),
        (
            ["MODELS:Looks", "--input", "128"],
            "if x.sum().item() > 0:). Plan it without what .item(), float(), `if` or a mask",
        ),
        (["torch.nn:Identity"], "nothing that Identity returns comes of parameters that learn"),
        (["MODELS:Wide", "--input", "128", "--gpus", "8", "--tensor-parallel", "3"], "needs a multiple of 3 processes"),
        (["resnet81"], "no architecture named 'resnet81'; did you mean 'resnet18'?"),
        (["nowhere.py:make"], "nowhere.py:make: no file at nowhere.py (looked from "),
        (["no_such_package:make"], "no_such_package:make: No module named 'no_such_package'; expected package.module:"),
        (["torchvision.models:make"], "torchvision.models:make: torchvision.models has no function 'make'"),
        (["models.py"], "models.py is a file; name the function in it that returns the model, as in models.py:make"),
        (
            ["MODELS:of_width"],
            "models.py:of_width(n): missing a required argument: 'n'; expected a function that needs no",
        ),
        (["MODELS:nothing"], "returned a int; expected a model, an nn.Module"),
        (["resnet18", "--input", "3x9"], "--input 3x9: expected the sizes of one sample, such as 3,224,224"),
        (["resnet18", "--input", "64"], "this ResNet does not take inputs of torch.float32 (8, 64): "),
        (["resnet18", "--optimizer", "adamm"], "--optimizer adamm: expected one of adam, adamw, sgd, momentum, lion"),
        (["resnet18", "--precision", "fp8"], "--precision fp8: expected one of fp32, bf16"),
    ],
)
def test_what_cannot_be_planned_is_one_line(plan: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    given = [each.replace("MODELS", str(tmp_path / "models.py")) for each in arguments]
    code, out, err = plan(*given, "--bs", 8)
    assert (code, out) == (2, "")
    assert err.startswith("dist-ai: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_what_torch_logs_of_inputs_that_do_not_fit_is_not_shown(plan: Any) -> None:
    heard = logging.Handler()
    heard.emit = mock.Mock()  # type: ignore[method-assign]  # a handler's own way to be made to listen
    log = logging.getLogger("torch._subclasses.fake_tensor")
    log.addHandler(heard)
    try:
        code, _, err = plan("resnet18", "--input", "64", "--bs", 8)
    finally:
        log.removeHandler(heard)
    assert (code, err.count("\n"), heard.emit.call_count, log.disabled) == (2, 1, 0, False)
