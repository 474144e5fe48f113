"""The port of PyTorch's MNIST example learns what the original does."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples" / "mnist"


def test_the_port_of_a_plain_program_learns_what_the_program_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    import after  # type: ignore[import-not-found]  # found by the path set above
    import before  # type: ignore[import-not-found]

    monkeypatch.setattr(before, "loaders", _once(before.loaders))
    monkeypatch.setattr(after, "loaders", before.loaders)
    try:
        plain = before.main(["--epochs", "1"])
        ported = after.main(["--epochs", "1"], run_dir=None, progress=False)
    finally:
        for name in ("before", "after"):
            sys.modules.pop(name)
    print(plain, ported)
    assert plain > 0.6
    assert abs(plain - ported) < 0.1  # after one epoch, in another order; on 1,000 images that is three deviations
    assert (tmp_path / "mnist_cnn" / "model.safetensors").is_file()
    assert "the first test image is of class 0, and predicted as" in capsys.readouterr().out


def _once(function):  # type: ignore[no-untyped-def]
    """Reads the images once for both programs."""
    made = []

    def loaders(args):  # type: ignore[no-untyped-def]
        if not made:
            made.append(function(args))
        return made[0]

    return loaders
