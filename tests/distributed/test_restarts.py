"""Runs that are started again: after a kill, a hang, an error; and those that are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab

from dist_ai.distributed.launchers.failures import Failure, failure_of, first_cause
from dist_ai.distributed.launchers.resize import Resize
from dist_ai.distributed.launchers.restarts import Restarts, Verdict
from dist_ai.distributed.pulse import Beat, Stage


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


# What a fit takes down, without torch: it starts at once.
RANK = """
    import os, signal, sys, time
    from dist_ai.distributed import environment
    from dist_ai.distributed.environment import launch_settings
    from dist_ai.distributed.pulse import Pulse, Stage

    environment._asked = True  # who it is, which takes torch
    rank, size, attempt = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "DIST_AI_ATTEMPT"))
    pulse = Pulse(launch_settings().failure_dir, rank)
    pulse.beat(1, 0, 7, Stage.DATA)
    time.sleep(0.3)  # the ranks are all there
    print(f"rank {rank} of {size}, attempt {attempt}, fresh {launch_settings().fresh}", flush=True)

    def stuck():
        pulse.beat(1, 0, 8, Stage.FORWARD)
        time.sleep(300)

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

"""


def script(lab: Lab, then: str) -> None:
    lab.script("rank.py", RANK + "".join(f"    {line}\n" for line in then.splitlines()))


# ------------------------------------------------------------------------------------ the rules

KILLED = Failure(rank=1, time=0.0, exit_code=-9)
HERE = Beat(1, 0, 7, Stage.DATA, 5.0)


def error(message: str = "no", kind: str = "ValueError", exit_code: int = 1) -> Failure:
    return Failure(rank=0, time=0.0, exit_code=exit_code, kind=kind, message=message)


def test_a_run_is_started_again_as_often_as_was_said() -> None:
    restarts = Restarts(limit=2, workers=3, min_workers=3)
    verdicts = [restarts.after(error(f"number {i}"), HERE) for i in range(3)]
    assert verdicts == [Verdict(3), Verdict(3), Verdict(0, "that was restart 2 of 2")]


def test_without_restarts_one_is_told_that_the_same_command_goes_on_where_something_was_trained() -> None:
    def verdict(failure: Failure, place: Beat) -> Verdict:
        return Restarts(limit=0, workers=1, min_workers=1).after(failure, place)

    again = "the same command goes on from its last checkpoint; max_restarts (--max-restarts) has that happen by itself"
    assert verdict(KILLED, HERE) == Verdict(0, again)
    assert verdict(KILLED, HERE._replace(fit=0)) == Verdict(0)
    assert verdict(error(), HERE) == Verdict(0)


def test_the_same_end_at_the_same_place_is_a_crash_loop() -> None:
    restarts = Restarts(limit=9, workers=2, min_workers=2)
    assert restarts.after(error(), HERE).workers == 2
    assert restarts.after(error(), HERE._replace(step=8, since=9.0)).workers == 2  # it came further
    assert restarts.after(error(), HERE._replace(step=8, since=11.0)) == Verdict(
        0, "it ended 2 times in the same way at the same place, so it is not started again"
    )
    kills = Restarts(limit=9, workers=2, min_workers=2)
    assert [kills.after(KILLED, HERE).workers for _ in range(3)] == [2, 2, 0]  # twice may be chance


def test_what_was_asked_to_end_or_cannot_work_is_not_started_again() -> None:
    restarts = Restarts(limit=9, workers=2, min_workers=2)
    assert restarts.after(error(kind="SystemExit", message="", exit_code=143), HERE) == Verdict(0)
    assert restarts.after(error(kind="KeyboardInterrupt", exit_code=130), HERE) == Verdict(0)
    assert restarts.after(error(kind="ConfigError"), HERE) == Verdict(0, "starting it again would not help")


def test_after_losing_a_worker_again_a_run_goes_on_with_fewer_if_it_may() -> None:
    restarts = Restarts(limit=9, workers=3, min_workers=2)
    verdicts = [restarts.after(KILLED, HERE._replace(step=i)) for i in range(5)]
    assert [each.workers for each in verdicts] == [3, 2, 2, 2, 2]
    assert verdicts[1].why == "it goes on with 2 workers, after losing one 2 times"


def test_a_run_that_was_told_another_number_of_workers_goes_on_with_it_and_that_is_no_failure() -> None:
    restarts = Restarts(limit=0, workers=3, min_workers=1)
    left = [failure_of(Resize(2), rank=rank, script="train.py") for rank in (0, 1)]
    killed_after = Failure(rank=2, time=0.0, exit_code=-15)  # before the others, by its clock
    cause = first_cause([killed_after, *left])
    assert (cause.rank, cause.kind, cause.workers, cause.exit_code) == (0, "Resize", 2, 76)
    verdict = restarts.after(cause, HERE)
    assert (verdict, restarts.workers, restarts.used) == (Verdict(2), 2, 0)
    told = restarts.told(cause, HERE, verdict, world_size=3)
    assert told == "it goes on with 2 workers instead of 3, as was asked"


# ------------------------------------------------------------------------------------ real launches


def test_a_killed_rank_is_started_again_with_all_others(lab: Lab) -> None:
    script(lab, "if attempt == 0 and rank == 1: die()\nif attempt == 0: time.sleep(300)")
    done = lab.launch("rank.py", "--workers", "2", "--max-restarts", "2", "--fresh")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "dist-ai: rank 1 of 2 was killed by SIGKILL (out of memory?), step 7 of fit 1, in epoch 0 (data); restart 1 of 2\n"
    )
    # Only the first attempt begins anew: the second goes on.
    assert done.stdout == "rank 0 of 2, attempt 0, fresh True\nrank 0 of 2, attempt 1, fresh False\n"
    assert "restart 1 of 2" in (lab.folder / "runs/rank/logs/launcher.log").read_text()


def test_an_error_that_comes_again_ends_the_run_with_that_explanation(lab: Lab) -> None:
    script(lab, "if rank == 0: raise KeyError('label')\ntime.sleep(300)")
    done = lab.launch("rank.py", "--workers", "2", "--max-restarts", "5")
    assert done.returncode == 1
    assert done.stdout.count("attempt") == 2
    assert (
        "dist-ai: error: rank 0 of 2 raised KeyError: 'label'; it ended 2 times in the same way at the same place, so it is "
        "not started again\n"
    ) in done.stderr


def test_a_rank_that_hangs_is_found_named_and_the_run_started_again(lab: Lab) -> None:
    script(
        lab,
        "if attempt == 0 and rank == 1: stuck()\n"
        "if attempt == 0: time.sleep(0.3); pulse.beat(1, 0, 8, Stage.BACKWARD); time.sleep(300)",
    )
    done = lab.launch("rank.py", "--workers", "2", "--max-restarts", "1", "--hang-timeout", "1")
    assert done.returncode == 0, done.stderr
    stacks = lab.folder / "runs/rank/logs/stacks.log"
    assert re.fullmatch(
        r"dist-ai: rank 1 of 2 made no progress for [1-9] s at step 8 of fit 1, in epoch 0 \(forward\), so all ranks were "
        r"stopped \(rank 0: step 8 of fit 1, in epoch 0 \(backward\); rank 1: step 8 of fit 1, in epoch 0 \(forward\)\)\. "
        rf"Every rank's stack is in {stacks}, step 8 of fit 1, in epoch 0 \(\w+\); restart 1 of 1\n",
        done.stderr,
    ), done.stderr
    _, first, second = stacks.read_text().split("---- rank ")
    assert 'rank.py", line' in first
    assert " in stuck\n" in second
    assert done.stdout.endswith("rank 0 of 2, attempt 1, fresh False\n")


def test_a_rank_outside_of_a_fit_may_take_its_time(lab: Lab) -> None:
    script(lab, "pulse.beat(1, 0, 9, Stage.OUTSIDE)\ntime.sleep(2)")
    assert lab.launch("rank.py", "--hang-timeout", "0.5").returncode == 0


def test_a_run_that_loses_a_worker_again_goes_on_with_fewer(lab: Lab) -> None:
    script(lab, "if rank == 1: die()\nif size == 2: time.sleep(300)")
    done = lab.launch("rank.py", "--workers", "1:2", "--max-restarts", "3")
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("restart 2 of 3; it goes on with 1 worker, after losing one 2 times\n")
    assert done.stdout.endswith("rank 0 of 1, attempt 2, fresh False\n")


def test_a_run_that_is_told_to_becomes_larger_and_smaller(lab: Lab) -> None:
    script(
        lab,
        "from dist_ai.distributed.launchers.resize import Resize\n"
        "print(launch_settings().workers, flush=True)\n"
        "if attempt < 2: raise Resize((1, 2)[attempt])",
    )
    done = lab.launch("rank.py", "--workers", "1:2")
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        "dist-ai: it goes on with 1 worker instead of 2, as was asked\n"
        "dist-ai: it goes on with 2 workers instead of 1, as was asked\n"
    )
    assert done.stdout.endswith(
        "rank 0 of 1, attempt 1, fresh False\n(1, 2)\nrank 0 of 2, attempt 2, fresh False\n(1, 2)\n"
    )


def test_a_setting_that_cannot_work_is_told_once(lab: Lab) -> None:
    script(lab, "from dist_ai.errors import ConfigError\nraise ConfigError('bs=0')")
    done = lab.launch("rank.py", "--max-restarts", "5")
    assert done.stdout.count("attempt") == 1
    assert "raised ConfigError: bs=0; starting it again would not help\n" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-restarts", "-1"], "max_restarts=-1: expected a whole number of 0 or more"),
        (["--hang-timeout", "0"], "hang_s=0.0: expected a number of seconds above 0 (--hang-timeout)"),
        (["--workers", "3:2"], "--workers 2:4; the first is the least: did you mean (2, 3)?"),
        (["--workers", "two"], "--workers two: expected a number, or the least and the most, as in 2:16"),
        (["--workers", "0:2"], "workers=(0, 2): expected a whole number of 1 or more, or the least and the most"),
    ],
)
def test_options_that_cannot_be_are_refused(lab: Lab, options: list[str], message: str) -> None:
    lab.script("rank.py", "")
    done = lab.launch("rank.py", *options)
    assert done.returncode == 2
    assert message in done.stderr
