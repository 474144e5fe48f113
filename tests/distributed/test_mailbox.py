"""What goes to and from the outside of a run."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_ai.distributed.mailbox import (
    Answer,
    Command,
    FileMailbox,
    Mailbox,
    MemoryMailbox,
    Status,
    command_line,
    mailbox_at,
    mailbox_of,
    provide,
)
from dist_ai.distributed.pulse import EXIT_HUNG, Beat, Pulse, Stage, read_beat
from dist_ai.distributed.reporter import Reporter
from dist_ai.errors import ConfigError

MAILBOXES: dict[str, Callable[[Path], Mailbox]] = {
    "files": lambda folder: FileMailbox(folder / "control"),
    "memory": lambda folder: MemoryMailbox(),
}


@pytest.fixture(params=MAILBOXES)
def mailbox(request: pytest.FixtureRequest, tmp_path: Path) -> Mailbox:
    return MAILBOXES[request.param](tmp_path)


def test_the_last_status_of_each_rank_is_kept(mailbox: Mailbox) -> None:
    assert mailbox.statuses() == []
    for rank, step in ((10, 1), (2, 1), (2, 5)):
        mailbox.post(Status(rank=rank, world_size=11, step=step))
    assert [(each.rank, each.step) for each in mailbox.statuses()] == [(2, 5), (10, 1)]
    mailbox.keep_ranks(10)
    assert [each.rank for each in mailbox.statuses()] == [2]


def test_commands_are_numbered_and_answered(mailbox: Mailbox) -> None:
    first, second = mailbox.send("set", {"lr": 1e-4}), mailbox.send("stop")
    assert (first.number, second.number) == (1, 2)
    assert mailbox.commands() == [first, second]
    assert mailbox.commands(after=1) == [second]
    assert mailbox.answers() == {}
    answer = Answer(number=1, ok=True, fit=1, step=12, text="set lr=0.0001")
    mailbox.answer(answer)
    assert mailbox.answers() == {1: answer}


def test_commands_that_are_sent_at_once_get_numbers_of_their_own(mailbox: Mailbox) -> None:
    threads = [threading.Thread(target=lambda: [mailbox.send("checkpoint") for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.number for each in mailbox.commands()] == list(range(1, 81))


def test_files_outlive_the_process_and_half_a_file_is_passed_over(tmp_path: Path) -> None:
    mailbox_at(tmp_path).send("pause")
    again = mailbox_of(tmp_path)
    assert [each.verb for each in again.commands()] == ["pause"]
    (tmp_path / "control" / "commands" / "2.json").write_text('{"numb')
    (tmp_path / "control" / "commands" / "notes.txt").touch()
    assert [each.number for each in again.commands()] == [1]
    assert again.send("resume").number == 3


def test_another_mailbox_can_be_provided(tmp_path: Path) -> None:
    own = MemoryMailbox()
    provide(lambda run_dir: own)
    try:
        assert mailbox_of(tmp_path) is own
    finally:
        provide(None)
    assert isinstance(mailbox_of(tmp_path), FileMailbox)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["stpo"],
            "'stpo' is not a command to a run: stop, checkpoint, set, pause, resume, workers, stacks; did you mean 'stop'?",
        ),
        (["workers", "3", "4"], "workers needs their number, 1 or more: workers 3"),
        (["set"], "set needs a hyper-parameter and its value: set lr=1e-4"),
        (["set", "lr"], "'lr' is not name=number, as in: set lr=1e-4"),
        (["set", "lr=fast"], "'lr=fast' is not name=number, as in: set lr=1e-4"),
        (["set", "lr=nan"], "set lr=nan: expected a number, or one for each parameter group: set lr=1e-5,1e-4"),
        (["set", "lr=-1"], "set lr=-1.0: lr is 0 or more"),
        (["set", "wd=0", "lr=1e-3,-1e-3"], "set lr=[0.001, -0.001]: lr is 0 or more"),
        (["set", "mom=1"], "set mom=1.0: mom is 0 or more, and less than 1"),
        (["set", "lr=1", "lr=2"], "set was given lr twice; for each parameter group a value is set lr=1e-5,1e-4"),
        (["stop", "lr=1"], "stop takes no arguments; it was given lr=1"),
        (["stop", "extra", "words"], "stop takes no arguments; it was given extra, words"),
        (["workers", "²"], "workers needs their number, 1 or more: workers 3"),
    ],
)
def test_commands_that_cannot_be_are_refused(words: list[str], message: str, tmp_path: Path) -> None:
    for mailbox in (MemoryMailbox(), mailbox_at(tmp_path)):
        with pytest.raises(ConfigError, match=re.escape(message)):
            mailbox.send(*command_line(words))
        assert mailbox.commands() == []


def test_a_rate_of_nothing_and_what_only_the_optimizer_knows_may_be_set() -> None:
    Command(number=1, verb="set", args={"lr": 0, "decay_rate": -0.8}).check()


def test_a_pulse_is_read_by_another_process_and_stays_when_its_own_is_gone(tmp_path: Path) -> None:
    assert read_beat(tmp_path, 3) == Beat()
    assert str(Beat()) == "before its first fit"
    pulse = Pulse(tmp_path, rank=3)
    pulse.beat(1, 2, 30, Stage.BACKWARD)
    beat = read_beat(tmp_path, 3)
    assert str(beat) == "step 30 of fit 1, in epoch 2 (backward)"
    time.sleep(0.02)
    assert 0.02 <= beat.quiet_s < 5
    pulse.again()
    assert read_beat(tmp_path, 3).quiet_s < beat.quiet_s
    del pulse
    assert read_beat(tmp_path, 3)[:4] == (1, 2, 30, Stage.BACKWARD)
    Pulse(tmp_path, rank=3).beat(1, 2, 30, Stage.OUTSIDE)
    assert read_beat(tmp_path, 3).quiet_s == 0.0  # nothing is expected of it


def test_a_reporter_posts_hears_and_writes_stacks(tmp_path: Path) -> None:
    mailbox, pulse, steps = MemoryMailbox(), Pulse(), iter(range(1000))
    reporter = Reporter(
        mailbox,
        lambda: Status(rank=0, world_size=1, step=next(steps)),
        pulse,
        is_main=True,
        stacks=tmp_path / "logs" / "stacks-rank0.txt",
        every_s=0.02,
    )
    mailbox.send("checkpoint")
    reporter.start()
    assert reporter.newest == 1
    mailbox.send("pause")
    stacks = mailbox.send("stacks")
    deadline = time.monotonic() + 10
    while (stacks.number not in mailbox.answers() or mailbox.statuses()[0].step < 3) and time.monotonic() < deadline:
        time.sleep(0.01)
    reporter.stop()
    assert reporter.newest == 2  # stacks are written at once, without a vote
    assert mailbox.answers()[3].text == f"the stacks are in {tmp_path}/logs/stacks-rank*.txt"
    text = (tmp_path / "logs" / "stacks-rank0.txt").read_text()
    assert " command 3\n" in text
    assert "test_a_reporter_posts_hears_and_writes_stacks" in text
    assert mailbox.statuses()[0].step >= 3


HANGS = """
import sys, time
from pathlib import Path
from dist_ai.distributed.mailbox import MemoryMailbox, Status
from dist_ai.distributed.pulse import Pulse, Stage
from dist_ai.distributed.reporter import Reporter

pulse = Pulse()
pulse.beat(1, 0, 7, Stage.OUTSIDE)
describe = lambda: Status(rank=3, world_size=4)
Reporter(MemoryMailbox(), describe, pulse, is_main=False, stacks=Path(sys.argv[1]), hang_s=0.5).start()
time.sleep(1.5)  # outside of a fit
pulse.beat(1, 0, 8, Stage.BACKWARD)

def waits_for_nobody():
    time.sleep(300)

waits_for_nobody()
"""


def test_without_a_launcher_a_rank_that_hangs_writes_its_stack_and_ends(tmp_path: Path) -> None:
    stacks = tmp_path / "logs" / "stacks-rank3.txt"
    command = [sys.executable, "-c", HANGS, str(stacks)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == EXIT_HUNG
    said = rf"no progress for \d s at step 8 of fit 1, in epoch 0 \(backward\); its stack is in {stacks}\n"
    assert re.fullmatch(f"dist-ai: this rank made {said}", done.stderr)
    assert " in waits_for_nobody\n" in stacks.read_text()


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        '{"verb": ["x"]}',
        '{"verb": "stop", "args": [1]}',
        '{"verb": "set", "args": {"lr": 1' + 400 * "0" + "}}",
        '{"extra": 1}',
    ],
)
def test_a_command_that_was_written_by_hand_is_answered_whatever_it_is(tmp_path: Path, content: str) -> None:
    mailbox = mailbox_at(tmp_path)
    (mailbox.folder / "commands").mkdir(parents=True)
    (mailbox.folder / "commands" / "1.json").write_text(content)
    [command] = mailbox.commands()
    assert command.number == 1
    with pytest.raises(ConfigError):
        command.check()
