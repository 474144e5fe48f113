"""Real launches: processes that meet, fail, hang, are killed and are interrupted."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, wait_until

from dist_ai.distributed.environment import (
    LaunchSettings,
    current_world,
    how_to_begin_anew,
    launch_settings,
    settings_environment,
    worker_environment,
)
from dist_ai.distributed.launchers import launch, machine
from dist_ai.distributed.launchers.failures import Failure, failure_of, first_cause, worker_error
from dist_ai.distributed.launchers.job import Job
from dist_ai.errors import BadSampleError, ConfigError, MissingDependencyError, RendezvousError, WorkerError
from dist_ai.tuning import tune


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        yield it


# A rank's own facts, without torch: it starts at once.
FACTS = """
    import json, os, pathlib, sys, threading
    facts = {
        "argv": sys.argv, "name": __name__, "file": __file__, "spec": __spec__, "path": sys.path[0], "cwd": os.getcwd(),
        "is_main": sys.modules["__main__"].__dict__ is globals(),
        "in_main_thread": threading.current_thread() is threading.main_thread(),
    }
    pathlib.Path(f"facts{os.environ.get('RANK', '')}.json").write_text(json.dumps(facts))
"""

EXCHANGE = """
    import sys
    import torch
    from dist_ai.distributed import join

    exchange = join()
    world = exchange.world
    total = int(exchange.all_reduce(torch.tensor([world.rank + 1]), what="ranks"))
    rows = exchange.all_gather_rows(torch.full((world.rank, 1), world.rank)).flatten().tolist()
    said = exchange.broadcast_json({"from": world.rank, "argv": sys.argv[1:]}, src=world.world_size - 1)
    print(f"rank {world.rank} of {world.world_size}: {total} {rows} {said}")
"""

# Rank 1 is busy elsewhere while rank 0 waits for it. They import torch at their own pace first: a time limit is theirs.
WAITING = """
    import os, pathlib, sys, time
    import torch
    from dist_ai.distributed import join

    pathlib.Path("here" + os.environ["RANK"]).touch()
    while len(list(pathlib.Path().glob("here?"))) < 2:
        time.sleep(0.01)
    exchange = join()
    if exchange.world.rank == 1:
        {rank_1}
    exchange.all_reduce(torch.ones(1), what="loss")
"""

# Waits to be stopped; says so once Python would hear a signal.
PATIENT = """
    import os, pathlib, sys, time
    rank = os.environ["RANK"]
    try:
        pathlib.Path(f"ready{rank}").touch()
        time.sleep(300)
    finally:
        pathlib.Path(f"cleaned{rank}").touch()
"""


def all_ready(lab: Lab, workers: int) -> bool:
    names = [lab.folder / f"ready{rank}" for rank in range(workers)]
    return wait_until(lambda: all(name.exists() for name in names), within_s=30)


def rank_processes(lab: Lab) -> list[int]:
    return [pid for pid in lab.marked() if b"launchers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


# ------------------------------------------------------------------------------------ what a rank finds


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ranks_meet_and_exchange(lab: Lab, workers: int) -> None:
    lab.script("exchange.py", EXCHANGE)
    done = lab.launch("exchange.py", "--workers", str(workers), "--epochs", "3")
    assert done.returncode == 0, done.stderr
    total = workers * (workers + 1) // 2
    rows = [rank for rank in range(workers) for _ in range(rank)]
    said = {"from": workers - 1, "argv": ["--epochs", "3"]}
    assert done.stdout == f"rank 0 of {workers}: {total} {rows} {said}\n"
    for rank in range(1, workers):
        log = (lab.folder / f"runs/exchange/logs/rank{rank}.log").read_text()
        assert f"rank {rank} of {workers}: {total} {rows} {said}\n" in log


def test_a_script_finds_what_it_would_find_under_python(lab: Lab) -> None:
    (lab.folder / "sub").mkdir()
    lab.script("sub/facts.py", FACTS)
    lab.python("sub/facts.py", "a", "--b")
    assert lab.launch("sub/facts.py", "a", "--b").returncode == 0
    alone, launched = (json.loads((lab.folder / name).read_text()) for name in ("facts.json", "facts0.json"))
    assert launched == alone
    assert launched["argv"] == ["sub/facts.py", "a", "--b"]


def test_who_starts_several_processes_of_a_program_that_shares_nothing_out_is_told(lab: Lab) -> None:
    lab.script("alone.py", "print('hello')")
    done = lab.launch("alone.py", "--workers", "2")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    assert done.stderr == (
        "dist-ai: alone.py used no Learner and no loader of dist_ai, which share the work out: unless it did so by itself, "
        "each of the 2 processes did all of it\n"
    )
    assert lab.launch("alone.py").stderr == ""
    lab.script(
        "shares.py",
        """
        import torch
        from dist_ai.data import DataLoader, TensorData
        print(len(next(iter(DataLoader(TensorData(torch.arange(4)), bs=4)))[0]))
        """,
    )
    done = lab.launch("shares.py", "--workers", "2")
    assert (done.stdout, done.stderr) == ("2\n", "")


def test_ranks_are_told_where_the_run_is(lab: Lab) -> None:
    lab.script(
        "told.py",
        """
        import os
        from dist_ai.distributed.environment import launch_settings
        settings = launch_settings()
        print(settings.run_dir, settings.fresh, settings.device, settings.timeout_s, os.environ["OMP_NUM_THREADS"])
        """,
    )
    cores = len(os.sched_getaffinity(0))
    assert lab.launch("told.py").stdout.split() == [f"{lab.folder}/runs/told", "False", "None", "600.0", str(cores)]
    other = lab.launch("--run-dir", "x/y", "told.py", "--fresh", "--device=cpu", "--timeout", "9", OMP_NUM_THREADS="5")
    assert other.stdout.split() == [f"{lab.folder}/x/y", "True", "cpu", "9.0", "5"]
    assert lab.launch("told.py", DIST_AI_FRESH="1").stdout.split()[1] == "True"


@pytest.mark.parametrize(
    ("command", "launched", "way"),
    [
        ("train.py", False, "DIST_AI_FRESH=1 before the command, or Learner(fresh=True)"),  # python, torchrun, srun
        ("/venv/lib/ipykernel_launcher.py", False, "DIST_AI_FRESH=1 before the command, or Learner(fresh=True)"),
        ("train.py", True, "--fresh"),  # on this machine or by Ray
        ("/venv/bin/dist-ai", False, "--fresh"),
        ("/here/dist_ai/cli/main.py", False, "--fresh"),
    ],
)
def test_how_to_begin_anew_fits_how_the_program_was_started(
    command: str, launched: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [command])
    for name, value in settings_environment(LaunchSettings(run_dir=Path("/run") if launched else None)).items():
        monkeypatch.setenv(name, value)
    assert how_to_begin_anew() == f"To begin anew there use {way}; or use another run directory"


def test_a_launch_inside_a_launch_starts_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    outer = LaunchSettings(run_dir=Path("/outer"), fresh=True, device="cuda")
    inherited = worker_environment(outer, rank=3, world_size=4, store="file:///outer", inherited={"HOME": "/me"})
    inner = worker_environment(LaunchSettings(), rank=0, world_size=1, store="file:///inner", inherited=inherited)
    assert inner["HOME"] == "/me"
    assert (inner["RANK"], inner["WORLD_SIZE"]) == ("0", "1")
    for name, value in inner.items():
        monkeypatch.setenv(name, value)
    assert launch_settings() == LaunchSettings()


@pytest.mark.parametrize("launcher", [None, os.getppid()])
def test_launch_and_tune_in_a_rank_of_a_run_are_refused(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, launcher: int | None
) -> None:
    script = lab.script("twice.py", "raise AssertionError('started')")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    if launcher is not None:
        monkeypatch.setenv("DIST_AI_LAUNCHER_PID", str(launcher))
    for what, call in (
        ("launch", lambda: launch(script, workers=2)),
        ("tune", lambda: tune(script, {"lr": 0.1}, trials=1)),
    ):
        with pytest.raises(ConfigError) as refused:
            call()
        assert str(refused.value).startswith(
            f"{what} was called in rank 1 of 2, and each of the 2 would start its own; start the program once (`python "
            f"program.py`), or call here what {what} would, which joins the others."
        )


def test_a_program_that_one_rank_starts_may_launch(lab: Lab) -> None:
    lab.script("inner.py", "print('inner')")
    lab.script(
        "outer.py",
        """
        import os, subprocess, sys

        if os.environ["RANK"] == "0":
            command = [sys.executable, "-m", "dist_ai.cli.main", "launch", "inner.py", "--run-dir", "inner"]
            print(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    """,
    )
    done = lab.launch("outer.py", "--workers", "2")
    assert (done.returncode, "inner" in done.stdout) == (0, True), done.stderr


def test_exit_handlers_run_and_the_end_of_the_interpreter_does_not(lab: Lab) -> None:
    lab.script(
        "ends.py",
        """
        import atexit, threading, time
        atexit.register(print, "handler")
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
        class Aborts:
            def __del__(self): print("torn down")
        keep = Aborts()
        print("end of script")
        """,
    )
    assert lab.launch("ends.py").stdout.split("\n") == ["end of script", "thread", "handler", ""]


def test_launch_from_python_does_not_wait_for_torch(lab: Lab) -> None:
    lab.script("quick.py", "print('ran')")
    program = (
        "import sys; from dist_ai.distributed.launchers import launch; "
        "print('before'); launch('quick.py'); print('torch' in sys.modules)"
    )
    done = lab.python("-c", program)
    assert done.stdout.split() == ["before", "ran", "False"], done.stderr


# ------------------------------------------------------------------------------------ when a rank fails


def test_a_rank_that_raises_ends_the_others_and_is_shown_once(lab: Lab) -> None:
    script = lab.script(
        "raises.py",
        """
        import os, time
        os.chdir("/")
        def inner():
            raise ValueError("no such thing")
        if os.environ["RANK"] == "1":
            inner()
        time.sleep(300)
        """,
    )
    done = lab.launch("raises.py", "--workers", "2")
    assert done.returncode == 1
    assert done.stdout == ""
    log = lab.folder / "runs/raises/logs/rank1.log"
    assert done.stderr == (
        "dist-ai: error: rank 1 of 2 raised ValueError: no such thing\n\n"
        "Traceback (most recent call last):\n"
        f'  File "{script}", line 7, in <module>\n'
        "    inner()\n"
        f'  File "{script}", line 5, in inner\n'
        '    raise ValueError("no such thing")\n'
        "ValueError: no such thing\n\n"
        f"Output of rank 1: {log}\n"
    )
    assert not list(lab.temporary.iterdir())


def test_an_error_of_ours_is_its_message_and_the_lines_of_the_users_code(lab: Lab) -> None:
    script = lab.script(
        "ours.py",
        """
        import os, time
        from dist_ai.distributed.environment import World
        def inner():
            World(world_size=0)
        if os.environ["RANK"] == "1":
            inner()
        time.sleep(300)
        """,
    )
    done = lab.launch("ours.py", "--workers", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "dist-ai: error: rank 1 of 2 raised ConfigError: world_size=0: a world has at least 1 process\n\n"
        "In your code (most recent call last):\n"
        f'  File "{script}", line 7, in <module>\n'
        "    inner()\n"
        f'  File "{script}", line 5, in inner\n'
        "    World(world_size=0)\n\n"
        f"Output of rank 1: {lab.folder}/runs/ours/logs/rank1.log\n"
    )


def test_an_error_of_ours_shows_where_the_users_code_caused_it(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    text = """if True:
        from dist_ai.data import DataLoader

        def broken(sample):
            raise ZeroDivisionError("the teapot is empty")

        next(iter(DataLoader([1, 2], item_tfms=[broken], num_workers=0)))
    """
    with pytest.raises(BadSampleError) as caught:
        exec(compile(text, script, "exec"), {})
    caught.value.add_note("raised in a test")
    failure = failure_of(caught.value, rank=1, script=str(script))
    message = str(worker_error(failure, world_size=2))
    assert message.startswith("rank 1 of 2 raised BadSampleError: sample ")
    _, *lines = re.findall(r'File "(.*)", line (\d+)', message)  # the first is this test's
    assert lines == [(str(script), "7"), (str(script), "5")]
    assert message.endswith("in broken\nraised in a test")
    assert message.count("the teapot is empty") == 1


def test_an_error_of_ours_without_a_line_of_the_user_is_its_message_alone(tmp_path: Path) -> None:
    text = "two lines\nof a message"
    failure = failure_of(ConfigError(text), rank=1, script=str(tmp_path / "train.py"))
    log = tmp_path / "rank1.log"
    log.write_text("what it printed\n")
    message = str(worker_error(failure, world_size=2, log=log))
    assert message == f"rank 1 of 2 raised ConfigError: {text}\n\nOutput of rank 1: {log}"


def test_the_first_cause_is_shown_and_not_its_consequence(lab: Lab) -> None:
    lab.script("cause.py", WAITING.format(rank_1="raise KeyError('label')"))
    done = lab.launch("cause.py", "--workers", "2")
    assert done.returncode == 1
    assert "rank 1 of 2 raised KeyError: 'label'" in done.stderr
    assert "CollectiveError" not in done.stderr


def test_a_mistake_in_the_script_is_shown_for_rank_0(lab: Lab) -> None:
    lab.script("typo.py", "pritn('hello')")
    done = lab.launch("typo.py", "--workers", "3")
    assert "rank 0 of 3 raised NameError: name 'pritn' is not defined" in done.stderr
    lab.script("syntax.py", "a = (1,\nb = 2")
    assert "rank 0 of 1 raised SyntaxError: " in lab.launch("syntax.py").stderr


def test_a_killed_rank_is_named(lab: Lab) -> None:
    lab.script("killed.py", WAITING.format(rank_1="import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    done = lab.launch("killed.py", "--workers", "2")
    assert done.returncode == 128 + signal.SIGKILL
    assert done.stderr.startswith("dist-ai: error: rank 1 of 2 was killed by SIGKILL (out of memory?)\n")
    assert "CollectiveError" not in done.stderr


def test_exit_codes_pass_through(lab: Lab) -> None:
    lab.script("code.py", "import os, sys; sys.exit(eval(sys.argv[1]))")
    assert lab.launch("code.py", "0").returncode == 0
    assert lab.launch("code.py", "None").returncode == 0
    seven = lab.launch("code.py", "7")
    assert (seven.returncode, seven.stderr) == (7, "dist-ai: error: rank 0 of 1 exited with code 7\n")
    words = lab.launch("code.py", "'no data'")
    assert (words.returncode, words.stderr) == (1, "dist-ai: error: rank 0 of 1 exited with code 1: no data\n")


def test_a_rank_that_ends_without_a_word_shows_the_end_of_its_log(lab: Lab) -> None:
    lab.script("silent.py", "import os, sys\nif os.environ['RANK'] == '1': print('last words'); os._exit(9)")
    lab.launch("silent.py", "--workers", "2")
    done = lab.launch("silent.py", "--workers", "2")
    assert done.returncode == 9
    log = lab.folder / "runs/silent/logs/rank1.log"
    # Rank 0 may have come to the script's end before, and have said that it shared nothing out.
    assert done.stderr.endswith(
        f"dist-ai: error: rank 1 of 2 exited with code 9\n\nOutput of rank 1: {log}\nlast words\n"
    )
    assert log.read_text().count("==== dist-ai launch ") == 2


def test_a_rank_that_hangs_is_named_after_the_timeout(lab: Lab) -> None:
    lab.script("hangs.py", WAITING.format(rank_1="time.sleep(300)"))
    done = lab.launch("hangs.py", "--workers", "2", "--timeout", "3")
    assert done.returncode == 1
    assert re.search(
        r"rank 0 of 2 raised CollectiveError: rank 0: all_reduce number 1 \(loss\) failed after \d\.\d s: "
        r"rank\(s\) 1 did not take part \(ended, or busy elsewhere\)",
        done.stderr,
    ), done.stderr


def test_a_rank_that_never_comes_is_named_after_the_timeout(lab: Lab) -> None:
    lab.script(
        "late.py",
        """
        import os, time
        if os.environ["RANK"] == "1":
            time.sleep(300)
        from dist_ai.distributed import join
        join()
        """,
    )
    done = lab.launch("late.py", "--workers", "2", "--timeout", "3")
    assert done.returncode == 1
    assert "rank 0 of 2 raised RendezvousError: " in done.stderr
    assert "rank(s) 1 did not come within 3 s" in done.stderr


def test_a_rank_that_leaves_before_it_met_the_others_is_named_at_once(lab: Lab) -> None:
    lab.script(
        "early.py",
        """
        import os, sys

        if os.environ["RANK"] == "1":
            sys.exit()
        from dist_ai.distributed import join
        join()
    """,
    )
    began = time.monotonic()
    done = lab.launch("early.py", "--workers", "1:2", "--timeout", "300", "--max-restarts", "3")
    assert time.monotonic() - began < 100
    assert done.returncode == 1
    assert "restart" not in done.stderr
    assert (
        "rank 1 of 2 ended, with code 0, before it met the others, and rank 0 waited for it: every rank runs the same program"
    ) in done.stderr


def test_a_rank_that_leaves_after_it_met_the_others_is_the_cause_and_not_who_waited(lab: Lab) -> None:
    lab.script("early.py", WAITING.format(rank_1="sys.exit()"))
    done = lab.launch("early.py", "--workers", "2", "--max-restarts", "3")
    assert done.returncode == 1
    assert "rank 1 of 2 ended, with code 0, while others still worked with it, and rank 0 waited for it" in done.stderr
    assert "restart" not in done.stderr


def test_a_failing_rank_does_not_leave_its_children(lab: Lab) -> None:
    lab.script(
        "parent.py",
        """
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        raise ValueError("after starting a child")
        """,
    )
    assert lab.launch("parent.py").returncode == 1
    assert lab.left_behind(within_s=2) == []


def test_first_cause_prefers_causes_to_consequences_and_early_to_late() -> None:
    def failure(rank: int, time: float, kind: str = "ValueError", waited: bool = False) -> Failure:
        return Failure(rank=rank, time=time, exit_code=1, kind=kind, message=f"of {kind}", waited_for_peer=waited)

    assert first_cause([failure(0, 1.0, "CollectiveError", waited=True), failure(1, 2.0)]).rank == 1
    assert first_cause([failure(0, 2.0, "KeyError"), failure(1, 1.0)]).rank == 1
    assert first_cause([failure(2, 1.0), failure(0, 1.5), failure(1, 1.2)]).rank == 0


# ------------------------------------------------------------------------------------ when the launcher ends


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_the_launcher_stop_every_rank(lab: Lab, number: signal.Signals, code: int) -> None:
    lab.script("patient.py", PATIENT)
    launcher = lab.start_launch("patient.py", "--workers", "2")
    assert all_ready(lab, 2)
    launcher.send_signal(number)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == code
    assert lab.left_behind(within_s=0) == []
    assert not list(lab.temporary.iterdir())
    assert errors == ("dist-ai: interrupted\n" if number is signal.SIGINT else "")
    # Ctrl-C is Python's KeyboardInterrupt in each rank, so a script can tidy up; SIGTERM is what the script makes of it.
    assert (lab.folder / "cleaned0").exists() == (number is signal.SIGINT)
    assert (lab.folder / "cleaned1").exists() == (number is signal.SIGINT)


def test_a_second_signal_does_not_wait(lab: Lab) -> None:
    lab.script(
        "stubborn.py", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)" + PATIENT.replace("\n    ", "\n")
    )
    launcher = lab.start_launch("stubborn.py")
    assert all_ready(lab, 1)
    launcher.terminate()
    launcher.terminate()  # the same request, as `timeout` sends it to a program and to its group
    assert not wait_until(lambda: launcher.poll() is not None, within_s=2.5)
    launcher.terminate()
    launcher.communicate(timeout=5)
    assert launcher.returncode == 143


def test_ranks_die_with_a_launcher_that_is_killed_and_the_next_one_tidies_up(lab: Lab) -> None:
    lab.script("patient.py", PATIENT)
    launcher = lab.start_launch("patient.py", "--workers", "2")
    assert all_ready(lab, 2)
    assert len(rank_processes(lab)) == 2
    launcher.kill()
    launcher.communicate()
    assert lab.left_behind(within_s=3) == []
    assert len(list(lab.temporary.iterdir())) == 1
    lab.script("quick.py", "")
    assert lab.launch("quick.py").returncode == 0
    assert not list(lab.temporary.iterdir())


def test_launch_from_python_raises_and_keeps_the_callers_signal_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three.py").write_text("import sys; sys.exit(3)")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(WorkerError, match="rank 0 of 1 exited with code 3") as caught:
        launch("three.py", device="cpu")
    assert (caught.value.rank, caught.value.exit_code) == (0, 3)
    assert signal.getsignal(signal.SIGTERM) is before
    failed: list[BaseException] = []

    def in_a_thread() -> None:
        try:
            launch("three.py", device="cpu")
        except WorkerError as error:
            failed.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert len(failed) == 1


# ------------------------------------------------------------------------------------ before anything is started


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"workers": 0},
            r"workers=0: expected a whole number of 1 or more, or the least and the most, as in \(2, 4\) or",
        ),
        ({"workers": -2}, "workers=-2: expected a whole number of 1 or more"),
        ({"workers": True}, "workers=True: expected a whole number of 1 or more"),
        ({"workers": 2.0}, r"workers=2\.0: expected a whole number of 1 or more"),
        ({"workers": "2"}, "workers='2': expected a whole .* --workers 2:4; did you mean 2, without quotes"),
        (
            {"workers": (1, 2, 3)},
            r"workers=\(1, 2, 3\): expected a whole number of 1 or more, or the least and the most",
        ),
        ({"workers": (4, 2)}, r"workers=\(4, 2\): .* --workers 2:4; the first is the least: did you mean \(2, 4\)\?$"),
        ({"engine": "rya"}, "engine='rya': expected 'local', 'ray' or 'slurm'; did you mean 'ray'?"),
        ({"engine": None}, "engine=None: expected 'local', 'ray' or 'slurm'$"),
        ({"device": "gpu"}, "device='gpu': expected 'cpu' or 'cuda', or None for GPUs where there are some$"),
        (
            {"max_restarts": "3"},
            "max_restarts='3': expected a whole number of 0 or more; did you mean 3, without quotes?",
        ),
        ({"max_restarts": -1}, "max_restarts=-1: expected a whole number of 0 or more$"),
        ({"fresh": "no"}, "fresh='no': expected True or False$"),
        (
            {"hang_s": float("nan")},
            r"hang_s=nan: expected a number of seconds above 0 \(--hang-timeout\), or None for that",
        ),
        (
            {"timeout_s": "5"},
            r"timeout_s='5': expected a number .* \(--timeout\), or None for 600; did you mean 5, without",
        ),
        (
            {"address": "", "engine": "ray"},
            "address='': expected a Ray cluster, such as 'head:6379', 'auto' or 'local'",
        ),
        ({"program": 5}, "program=5: expected a Python file, or a function$"),
        ({"run_dir": ""}, "run_dir='': expected a folder, or None for one by the program's name$"),
        ({"run_dir": 3}, "run_dir=3: expected a folder"),
        (
            {"run_dir": "s3://bucket/run"},
            "run_dir='s3://bucket/run' is an address: what all ranks of a launch write must be in a folder that they share; "
            r"give one, and have the checkpoints there by Learner\(run_dir=...\), which takes a store such as s3://bucket/run",
        ),
        ({"run_dir": Path("s3://bucket/run")}, "run_dir='s3:/bucket/run' is an address"),
        (
            {"run_dir": "/proc/foo"},
            r"run directory '/proc/foo' cannot be written \(No such file or directory\); choose",
        ),
        (
            {"run_dir": "x" * 300},
            r"run directory '/.*/x+' cannot be written \(File name too long\); choose another",
        ),
        ({"run_dir": "a\0b"}, r"run_dir='a\\x00b': expected a folder"),
        (
            {"device": "cuda", "workers": 99},
            r"workers=99 needs 99 GPU\(s\), one for each worker, but this machine shows",
        ),
        ({"timeout_s": 0.0}, r"timeout_s=0\.0: expected a number of seconds above 0"),
        ({"engine": "slurm"}, "engine 'slurm' starts the workers with srun, which is not here; give the command on a"),
        (
            {"address": "head:6379"},
            "address 'head:6379' names a Ray cluster, but the engine is 'local'; use --engine ray",
        ),
        ({"args": "--epochs 3"}, r"args='--epochs 3': expected a list, .*; did you mean \['--epochs', '3'\]\?$"),
        ({"args": "abc", "program": print}, r"args='abc': expected a list, .*; did you mean \['abc'\]\?$"),
        ({"args": 5}, "args=5: expected a list, of what a script finds in sys.argv"),
        (
            {"args": ["x" * 200_000]},
            r"args has a word of 200,000 bytes, 'x{20}'\.\.\., and a command line takes 131,071 at most; write it to a file "
            "and give the script its name, or launch a function",
        ),
        (
            {"args": ["x" * 99] * 50_000},
            r"args and the environment have 5,[\d,]+ bytes, and a process is started with",
        ),
        ({"args": ["a\0b"]}, r"args has 'a\\x00b', and a command line takes no \\0"),
        ({"program": "trian.py"}, r"script 'trian.py' does not exist in /.*; did you mean 'train.py'\?"),
        ({"program": "sub/trian.py"}, r"script 'sub/trian.py' does not exist in /.*; did you mean 'sub/train.py'\?"),
        ({"program": "sub/a.py"}, "script 'sub/a.py' does not exist in [^;?]*$"),
        ({"workers": 0, "engine": "ray"}, "workers=0: expected a whole number of 1 or more"),
        ({"program": "."}, "script '.' is a folder; give the Python file to run"),
        (
            {"run_dir": "train.py/x"},
            r"run directory '/.*/train.py/x' cannot be written \('/.*/train.py' is a file\); choose",
        ),
        (
            {"engine": "ray", "address": "ray://head:10001"},
            "--address=ray://head:10001 is for a Ray client or for jobs",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    arguments: dict[str, object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    for script in ("train.py", "sub/train.py", "sub/b.py"):
        Path(script).write_text("raise AssertionError('was run')")
    with pytest.raises(ConfigError, match=message):
        launch(**{"program": "train.py", **arguments})  # type: ignore[arg-type]
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        "sub", "sub/b.py", "sub/train.py", "train.py"
    ]  # fmt: skip


def test_on_ray_words_are_as_long_as_they_like_for_they_are_on_no_command_line(tmp_path: Path) -> None:
    (tmp_path / "train.py").touch()
    told = {"workers": 1, "run_dir": tmp_path, "fresh": False, "device": None, "timeout_s": None, "address": None}
    job = Job.checked(tmp_path / "train.py", ["x" * 200_000], engine="ray", **told)
    assert [len(word) for word in job.args] == [200_000]


@pytest.mark.parametrize(
    ("device", "by_driver", "by_torch", "refused"),
    [
        ("cpu", 1, 1, None),
        (None, 0, 0, None),
        (None, 4, None, None),
        ("cuda", 4, None, None),
        ("cuda", 0, 4, None),  # the driver is one that we cannot ask
        (None, 1, 1, "workers=4 needs 4 GPU(s), one for each worker, but this machine shows 1; use --workers 1, or "),
        ("cuda", 2, 2, "workers=4 needs 4 GPU(s), one for each worker, but this machine shows 2; use --workers 2, or "),
        ("cuda", 0, 0, "but this machine shows 0; see `dist-ai doctor` for what is missing, or use --device cpu"),
        (None, 2, 0, None),  # a torch that was built without them
    ],
)
def test_more_workers_than_gpus_are_refused(
    device: str | None, by_driver: int, by_torch: int | None, refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_driver_count", lambda: by_driver)
    monkeypatch.setattr(machine, "_torch_count", lambda: by_torch)  # None: must not be asked, it takes seconds
    if refused is None:
        machine.require_gpus(4, device)
    else:
        with pytest.raises(ConfigError, match=re.escape(refused)):
            machine.require_gpus(4, device)


def test_ray_that_is_not_installed_is_a_pip_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    script = tmp_path / "train.py"
    script.touch()
    with pytest.raises(MissingDependencyError, match=r"pip install 'ray\[train\]>=2.54'"):
        launch(script, engine="ray")


# ------------------------------------------------------------------------------------ torchrun, or nobody


RESTARTED = """
    import os, sys
    import torch
    from dist_ai.distributed import join

    exchange = join()
    if exchange.world.attempt == 0 and exchange.world.rank == 1:
        sys.exit(1)
    total = int(exchange.all_reduce(torch.ones(1)))
    if exchange.world.is_main:
        print("attempt", exchange.world.attempt, "of", exchange.world.source, total)
"""


def test_torchrun_starts_and_restarts_a_script(lab: Lab) -> None:
    lab.script("restarted.py", RESTARTED)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    done = lab.python(*torchrun, "restarted.py", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "attempt 1 of torchrun 2\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2"}, "rank=2 is outside 0..1 (world_size=2)"),
        ({"RANK": "one"}, "RANK='one' is not a whole number"),
        ({"RANK": ""}, "WORLD_SIZE=2 says that there are several processes, but RANK is not set"),
        ({"LOCAL_RANK": "4", "LOCAL_WORLD_SIZE": "4"}, "local_rank=4 is outside 0..3 (local_world_size=4)"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE=2 says that there are several processes, but MASTER_ADDR is not set"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT=0 is not a port; use a free one between 1024 and 65535"),
        ({"DIST_AI_DEVICE": "gpu"}, "DIST_AI_DEVICE='gpu' is not a device kind; use 'cpu' or 'cuda', or unset it"),
    ],
)
def test_variables_that_cannot_be_are_refused(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in {**world, **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=re.escape(message)):
        current_world()


@pytest.mark.parametrize("value", ["soon", "0", "-3", "nan", "inf"])
def test_a_timeout_that_cannot_be_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_AI_TIMEOUT_S", value)
    with pytest.raises(ConfigError, match=re.escape(f"DIST_AI_TIMEOUT_S={value!r} is not a number of seconds above 0")):
        launch_settings()


@pytest.mark.parametrize(("value", "fresh"), [("1", True), ("True", True), ("0", False), ("false", False), ("", False)])
def test_whether_to_begin_anew_is_a_yes_or_a_no(value: str, fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_AI_FRESH", value)
    assert launch_settings().fresh is fresh
    monkeypatch.setenv("DIST_AI_FRESH", "maybe")
    with pytest.raises(ConfigError, match="DIST_AI_FRESH='maybe' is neither yes nor no; give 1 or 0"):
        launch_settings()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_one_clear_error(lab: Lab, taken_port: int) -> None:
    lab.script("exchange.py", EXCHANGE)
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(taken_port), "DIST_AI_TIMEOUT_S": "2"}
    host, guest = (lab.start("exchange.py", RANK=rank, **world) for rank in ("0", "1"))
    _, hosts = host.communicate(timeout=60)
    _, guests = guest.communicate(timeout=60)
    assert f"RendezvousError: rank 0 could not open the store on 127.0.0.1:{taken_port}: " in hosts
    assert "If the port is in use, choose another MASTER_PORT" in hosts
    assert f"RendezvousError: rank 1 could not reach the store at 127.0.0.1:{taken_port}: " in guests
    assert "it is another program" in guests


def test_a_rank_that_nobody_starts_is_named(lab: Lab) -> None:
    lab.script("exchange.py", EXCHANGE)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    world = {"WORLD_SIZE": "3", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "DIST_AI_TIMEOUT_S": "2"}
    done = lab.python("exchange.py", RANK="0", **world)
    assert "rank(s) 1, 2 did not come within 2 s" in done.stderr


# ------------------------------------------------------------------------------------ ray


@pytest.mark.ray
def test_ray_runs_the_ranks_of_a_run(lab: Lab) -> None:
    lab.script("exchange.py", EXCHANGE)
    # A file that a cluster left behind when it was killed: Ray itself would try to reach it for minutes.
    (lab.ray_folder / "ray").mkdir()
    (lab.ray_folder / "ray" / "ray_current_cluster").write_text("127.0.0.1:1")
    done = lab.launch("exchange.py", "--engine", "ray", "--workers", "2", "--epochs", "3")
    assert done.returncode == 0, done.stderr
    line = "3 [1] {'from': 1, 'argv': ['--epochs', '3']}\n"
    assert done.stdout == f"rank 0 of 2: {line}"
    assert f"rank 1 of 2: {line}" in (lab.folder / "runs/exchange/logs/rank1.log").read_text()
    assert done.stderr == "dist-ai: starting Ray on this machine (2 workers) ...\n"


@pytest.mark.ray
def test_ray_shows_the_first_cause_once(lab: Lab) -> None:
    script = lab.script("cause.py", WAITING.format(rank_1="raise KeyError('label')"))
    done = lab.launch("cause.py", "--engine", "ray", "--workers", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "dist-ai: starting Ray on this machine (2 workers) ...\n"
        "dist-ai: error: rank 1 of 2 raised KeyError: 'label'\n\n"
        "Traceback (most recent call last):\n"
        f'  File "{script}", line 11, in <module>\n'
        "    raise KeyError('label')\n"
        "KeyError: 'label'\n\n"
        f"Output of rank 1: {lab.folder}/runs/cause/logs/rank1.log\n"
    )


@pytest.mark.ray
@pytest.mark.slow
def test_ray_names_a_killed_rank_without_a_page_of_its_own(lab: Lab) -> None:
    lab.script("killed.py", WAITING.format(rank_1="import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))
    done = lab.launch("killed.py", "--engine", "ray", "--workers", "2")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "dist-ai: starting Ray on this machine (2 workers) ...\n"
        "dist-ai: error: rank 1 of 2 lost its process (killed, out of memory, os._exit, or a crash in native code)\n"
    )
    assert done.stderr.count("\n") < 9


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_to_the_launcher_end_ray(lab: Lab, number: signal.Signals, code: int) -> None:
    lab.script("patient.py", PATIENT)
    launcher = lab.start_launch("patient.py", "--engine", "ray", "--workers", "2")
    assert wait_until(lambda: (lab.folder / "ready1").exists() and (lab.folder / "ready0").exists(), within_s=90)
    launcher.send_signal(number)
    out, errors = launcher.communicate(timeout=60)
    assert launcher.returncode == code
    began = "dist-ai: starting Ray on this machine (2 workers) ...\n"
    assert (out, errors) == ("", began + ("dist-ai: interrupted\n" if number is signal.SIGINT else ""))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_uses_the_cluster_that_runs_here_and_leaves_it_running(lab: Lab) -> None:
    lab.script("exchange.py", EXCHANGE)
    ray_cli = ("-m", "ray.scripts.scripts")
    started = lab.python(*ray_cli, "start", "--head", "--num-cpus=1", "--port=0", "--include-dashboard=false")
    assert started.returncode == 0, started.stderr
    try:
        done = lab.launch("exchange.py", "--engine", "ray")
        assert (done.returncode, done.stdout) == (0, "rank 0 of 1: 1 [] {'from': 0, 'argv': []}\n"), done.stderr
        few = lab.launch("exchange.py", "--engine", "ray", "--workers", "2", RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="2")
        lack = "2 worker(s) need 2 CPUs, and the Ray cluster has 1 CPUs ("
        connecting, waiting, error = few.stderr.splitlines()
        assert connecting == "dist-ai: connecting to the Ray cluster on this machine (2 workers) ..."
        assert waiting.startswith(f"dist-ai: {lack}")
        assert waiting.endswith("; waiting up to 2 s for it to grow (Ctrl-C to stop)")
        assert error.startswith(f"dist-ai: error: {lack}")
    finally:
        # Not `ray stop`: it ends every cluster of this machine.
        for pid in lab.marked():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.ray
def test_an_address_that_a_cluster_has_left_is_named_where_another_program_answers_as_ray_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def refuses(*_: Any, **__: Any) -> None:
        raise ConnectionError("Failed to connect")

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection:
                    connection.recv(64)
                    connection.sendall(bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)))  # HTTP/2's SETTINGS

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", refuses)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer, daemon=True).start()
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{server.getsockname()[1]}")
        (script := tmp_path / "train.py").touch()
        expected = (
            "the Ray cluster on this machine answers, but lets us not in: Failed to connect; see that Ray and Python have its "
            "versions, and, if it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; if it is gone and has left its "
            "address here, take it away with `ray stop`, or give --address local"
        )
        with pytest.raises(RendezvousError, match=re.escape(expected)):
            launch(script, engine="ray")
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.ray
@pytest.mark.parametrize("by", ["address", "variable"])
def test_a_ray_cluster_that_does_not_answer_is_an_error_within_seconds(
    by: str, taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "train.py"
    script.touch()
    monkeypatch.chdir(tmp_path)
    if by == "address":
        with pytest.raises(RendezvousError, match=r"--address=127\.0\.0\.1:1: no Ray cluster answers there"):
            launch(script, engine="ray", address="127.0.0.1:1")
    else:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{taken_port}")
        expected = f"RAY_ADDRESS=127.0.0.1:{taken_port}: no Ray cluster answers there \\(no answer within 3 s\\)"
        with pytest.raises(RendezvousError, match=expected):
            launch(script, engine="ray")
