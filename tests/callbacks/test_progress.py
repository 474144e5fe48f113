"""What a fit shows: a bar in a terminal, a line an epoch in a file."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from toy import make_data, make_learner

from dist_ai.callbacks import ProgressBar
from dist_ai.callbacks.progress import format_row
from dist_ai.data import DataLoaders, IterableLoader
from dist_ai.metrics import accuracy


def fit_shown(*, terminal: bool = False, n_epoch: int = 2, dls: DataLoaders | None = None) -> str:
    """Returns what a fit of 2 epochs and a validation write."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, highlight=False, color_system=None)
    learn = make_learner(metrics=accuracy, cbs=ProgressBar(console), dls=dls)
    learn.fit(n_epoch)
    learn.validate()
    return text.getvalue()


def test_a_file_gets_a_head_and_a_line_for_each_epoch_and_nothing_else() -> None:
    lines = fit_shown().splitlines()
    assert lines[0].split() == ["epoch", "train_loss", "valid_loss", "accuracy", "samples_per_s", "time"]
    assert len(lines) == 3
    for epoch, line in enumerate(lines[1:]):
        assert re.fullmatch(rf"\s+{epoch}\s+\d\.\d{{6}}\s+\d\.\d{{6}}\s+\d\.\d{{6}}\s+[\d,]+\s+0:00", line)


def test_a_terminal_gets_a_bar_for_training_and_validation_that_is_cleared() -> None:
    text = fit_shown(terminal=True)
    for what in ("epoch 1/2 train", "epoch 1/2 valid", "epoch 2/2 train", "epoch 2/2 valid"):
        assert what in text
    assert "1/3" in text
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)
    rows = [line for line in visible.splitlines() if re.match(r"\s+\d\s+\d\.\d{6}", line)]
    assert len(rows) == 2
    assert text.count("\x1b[?25h") == text.count("\x1b[?25l") > 0  # the cursor is shown again as often as hidden


def test_a_bar_shows_how_many_batches_there_were_where_only_the_end_tells() -> None:
    loader = IterableLoader(lambda: zip(*make_data(), strict=True), 8, num_workers=0)
    text = fit_shown(terminal=True, dls=DataLoaders(loader, loader))
    for what in ("epoch 1/2 train", "epoch 2/2 valid", "1/?"):
        assert what in text


def test_a_terminals_bar_is_cleared_when_the_fit_fails() -> None:
    text = io.StringIO()
    bar = ProgressBar(Console(file=text, force_terminal=True, width=120))

    def loss(pred: Any, target: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_learner(cbs=bar, loss_func=loss).fit(1)
    assert text.getvalue().count("\x1b[?25h") == text.getvalue().count("\x1b[?25l") == 1


def test_only_rank_0_shows_anything(spawn: Any) -> None:
    first, second = spawn(2, fit_shown, n_epoch=1)
    assert len(first.splitlines()) == 2
    assert second == ""


def test_nothing_is_written_where_no_progress_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    make_learner(progress=False).fit(1)
    assert capsys.readouterr().out == ""
    make_learner(progress=True).fit(1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_row_is_aligned_with_its_head() -> None:
    names = ["epoch", "train_loss", "accuracy", "samples_per_s", "time"]
    head = format_row(names, None)
    row = format_row(names, {"epoch": 12, "train_loss": float("nan"), "samples_per_s": 12345.6, "time": 3725.4})
    assert len(head) == len(row)
    assert row.split() == ["12", "nan", "-", "12,346", "62:05"]


def test_training_goes_on_when_nobody_reads_what_it_shows(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pathlib import Path\n"
        "from dist_ai.callbacks import ProgressBar\n"
        "console = ProgressBar().console\n"
        "for number in range(3000):\n"
        "    console.print('a row of the table', number, soft_wrap=True)\n"
        "print('and this', flush=True)\n"
        "Path('done').touch()\n"
    )
    process = subprocess.Popen([sys.executable, program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (0, b"")
    assert (tmp_path / "done").exists()


def test_a_row_that_is_wider_than_the_screen_stays_a_line() -> None:
    text = io.StringIO()
    console = Console(file=text, width=40, highlight=False, color_system=None)
    make_learner(metrics=accuracy, cbs=ProgressBar(console)).fit(1)
    assert len(text.getvalue().splitlines()) == 2
