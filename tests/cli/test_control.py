"""`dist-ai control` and `dist-ai watch`, on the mailbox of a run that a test plays."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from lab import wait_until
from rich.console import Console

from dist_ai.cli.main import main
from dist_ai.cli.watch import _view
from dist_ai.distributed.mailbox import Answer, FileMailbox, Status, mailbox_at


def status(rank: int = 0, **facts: object) -> Status:
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "fit": 1, "step": 7, "stage": "data", "world_size": 2}
    return Status(rank=rank, **{**mine, **facts})  # type: ignore[arg-type]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "train"
    mailbox_at(folder).post(status())
    return folder


def ended() -> int:
    """Returns the number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def answering(mailbox: FileMailbox, **facts: object) -> threading.Thread:
    def answer() -> None:
        deadline = time.monotonic() + 20
        while not mailbox.commands() and time.monotonic() < deadline:
            time.sleep(0.01)
        number = mailbox.commands()[-1].number
        mailbox.answer(Answer(number=number, **{"ok": True, "fit": 1, "step": 8, **facts}))  # type: ignore[arg-type]

    thread = threading.Thread(target=answer)
    thread.start()
    return thread


def tell(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    out, err = capsys.readouterr()
    code = caught.value.code
    return (code if isinstance(code, int) else 0), out, err


def test_a_command_is_sent_and_its_answer_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = answering(mailbox_at(run), text="set lr=0.0001")
    code, out, _ = tell(capsys, "control", str(run), "set", "lr=1e-4")
    thread.join()
    assert (code, out) == (0, "command 1: set lr=0.0001, before step 8 of fit 1\n")
    assert [(each.verb, dict(each.args)) for each in mailbox_at(run).commands()] == [("set", {"lr": 1e-4})]


def test_what_the_run_could_not_do_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    thread = answering(
        mailbox_at(run), ok=False, text="this optimizer has no hyper-parameter 'lrr'; did you mean 'lr'?"
    )
    code, _, err = tell(capsys, "control", str(run), "set", "lrr=1e-4")
    thread.join()
    assert code == 2
    assert err == (
        "dist-ai: error: command 1 (set lrr=0.0001) was not done: this optimizer has no hyper-parameter 'lrr'; did you mean "
        "'lr'?\n"
    )


def test_commands_that_cannot_be_are_refused_before_they_are_sent(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = tell(capsys, "control", str(run), "stpo")
    assert code == 2
    assert "'stpo' is not a command to a run: stop, checkpoint, " in err
    assert "did you mean 'stop'?" in err
    code, _, err = tell(capsys, "control", str(run), "stop", "extra")
    assert (code, err) == (2, "dist-ai: error: stop takes no arguments; it was given extra\n")
    code, _, err = tell(capsys, "control", str(run), "set", "lr=-1")
    assert (code, err) == (2, "dist-ai: error: set lr=-1.0: lr is 0 or more\n")
    for words in (["workers"], ["workers", "0"], ["workers", "count=2"]):
        code, _, err = tell(capsys, "control", str(run), *words)
        assert (code, err) == (2, "dist-ai: error: workers needs their number, 1 or more: workers 3\n")
    assert mailbox_at(run).commands() == []


def test_runs_that_are_not_there_have_ended_or_are_silent_are_errors(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = tell(capsys, "control", str(run.with_name("trian")), "stop")
    assert code == 2
    assert f"{run.with_name('trian')} is no run directory; did you mean '{run}'?" in err
    (run.with_name("other") / "checkpoints").mkdir(parents=True)
    _, _, err = tell(capsys, "control", str(run.with_name("other")), "stop")
    assert "no fit has begun in" in err
    (run.with_name("starting") / "logs").mkdir(parents=True)  # the workers are there, and have not come to a fit yet
    _, _, err = tell(capsys, "watch", str(run.with_name("starting")), "--once")
    assert f"no fit has begun in {run.with_name('starting')} that could be watched" in err
    run.with_name("trein").mkdir()
    _, _, err = tell(capsys, "control", str(run.with_name("trein")), "stop")
    assert f"{run.with_name('trein')} is no run directory; did you mean '{run}'?" in err
    mailbox_at(run).post(status(time=time.time() - 100))
    code, _, err = tell(capsys, "control", str(run), "stop")
    assert code == 1
    assert (
        f"the run in {run} is not alive: it last told of itself 100 s ago, in fit 1, step 7. Started again, it " in err
    )
    mailbox_at(run).post(status(stage="outside", pid=ended()))
    _, _, err = tell(capsys, "control", str(run), "stop")
    assert (
        f"the run in {run} has ended; it last told of itself 0 s ago. If it is being started again, repeat the" in err
    )
    assert mailbox_at(run).commands() == []


def test_a_run_that_does_not_answer_in_time_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = tell(capsys, "control", str(run), "checkpoint", "--timeout", "0.2")
    assert code == 1
    assert "command 1 was not answered within 0.2 s (rank 0: data of step 7); it stays in the mailbox" in err


def test_a_table_shows_every_rank_and_what_is_wrong_with_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mailbox = mailbox_at(run)
    mailbox.post(status(0, loss=0.5, own_ms=2.0, samples_per_s=640.4, total_steps=90))
    mailbox.post(status(1, own_ms=9.0))
    mailbox.post(status(2, own_ms=2.0, quiet_s=30.0, stage="backward"))
    mailbox.post(status(3, own_ms=2.0, stage="outside", pid=ended()))
    code, out, _ = tell(capsys, "watch", str(run), "--once")
    assert code == 0
    title, head, *rows = [" ".join(line.split()) for line in out.splitlines()]
    assert title == str(run)
    assert head == "rank fit epoch step stage loss samples/s own ms heard"
    assert rows[0].startswith("0 1 0 7/90 data 0.5 640 2.0 0.")
    assert rows[1].endswith("s ago straggler: the others wait for it")
    assert rows[2].endswith("s ago no progress for 30 s")
    assert rows[3].endswith("s ago ended")
    mailbox.post(status(2, own_ms=2.0, stage="backward", pid=ended()))
    _, out, _ = tell(capsys, "watch", str(run), "--once")
    assert "s ago  its process is gone" in out
    mailbox.post(status(4, host="elsewhere"))
    _, out, _ = tell(capsys, "watch", str(run), "--once")
    assert " elsewhere  " in out


@pytest.mark.parametrize(("width", "below"), [(80, True), (120, False)])
def test_what_is_wrong_with_a_rank_is_read_whole_on_a_terminal_of_any_width(width: int, below: bool) -> None:
    slow = status(1, own_ms=9.0, total_steps=1200, step=1100, loss=0.6043)
    out = io.StringIO()
    console = Console(file=out, width=width)
    console.print(_view("runs/train", [status(0, own_ms=2.0), slow], console))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    remark = "straggler: the others wait for it"
    assert lines[3].split()[:6] == ["1", "1", "0", "1100/1200", "data", "0.6043"]
    assert (remark in lines[3]) is not below
    assert [line.strip() for line in lines[4:]] == ([f"rank 1: {remark}"] if below else [])


def test_watching_ends_with_the_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threading.Timer(0.3, lambda: mailbox_at(run).post(status(stage="outside", pid=ended()))).start()
    code, out, _ = tell(capsys, "watch", str(run), "--every", "0.05")
    assert code == 0
    assert "outside" in out


@pytest.mark.slow
def test_a_run_on_two_processes_is_watched_told_a_learning_rate_and_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Path(__file__).parents[1] / "parity" / "resume_program.py"
    command = [
        sys.executable,
        "-m",
        "dist_ai.cli.main",
        "launch",
        str(program),
        "--workers",
        "2",
        "--max-restarts",
        "3",
    ]
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--run-dir", str(folder), str(tmp_path / "weights"), "1000000"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert wait_until(lambda: [each.step > 0 for each in mailbox_at(folder).statuses()] == [True] * 2, within_s=90)
    code, out, err = tell(capsys, "control", str(folder), "pause")
    assert (code, out.split(",")[0]) == (0, "command 1: pause"), err
    code, out, err = tell(capsys, "control", str(folder), "set", "lrr=0.5")
    assert code == 2
    assert "no hyper-parameter 'lrr'; did you mean 'lr'?" in err
    assert wait_until(lambda: {each.stage for each in mailbox_at(folder).statuses()} == {"paused"}, within_s=20)
    _, out, _ = tell(capsys, "watch", str(folder), "--once")
    assert out.count("paused") == 2
    code, out, _ = tell(capsys, "control", str(folder), "stacks")
    assert code == 0
    assert wait_until(lambda: len(list((folder / "logs").glob("stacks-rank?.txt"))) == 2, within_s=10)
    code, out, err = tell(capsys, "control", str(folder), "stop")
    assert (code, out.split(",")[0]) == (0, "command 4: stop"), err
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"{folder}: the command to stop came; a checkpoint is written, to go on from" in said
    assert (
        errors == "dist-ai: error: rank 0 of 2 ended because it was told to, with code 143\n"
    )  # and was not started again


def test_a_run_whose_processes_are_gone_is_told_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mailbox_at(run).post(status(0, pid=ended()))
    code, _, err = tell(capsys, "control", str(run), "stop")
    assert code == 1
    assert f"the run in {run} is not alive: the processes of its ranks are gone. Started again, it goes on from" in err
    assert mailbox_at(run).commands() == []
