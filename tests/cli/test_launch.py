"""`dist-ai` and `dist-ai launch`: what goes to whom, what is suggested, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab, wait_until

from dist_ai import __version__
from dist_ai.cli.launch import OPTIONS


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with Lab(tmp_path) as it:
        it.script("show.py", "import json, sys; print(json.dumps(sys.argv))")
        yield it


def dist_ai(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.python("-m", "dist_ai.cli.main", *arguments)


def test_help_lists_the_commands_and_loads_nothing_heavy(lab: Lab) -> None:
    program = """if True:
        import sys
        from dist_ai.cli.main import main
        try:
            main(["--help"])
        except SystemExit as end:
            loaded = [name for name in ("torch", "numpy", "pandas", "ray", "accelerate") if name in sys.modules]
            print(end.code, loaded)
    """
    done = lab.python("-c", program)
    assert done.stdout.endswith("\n0 []\n"), done.stdout + done.stderr
    for command in ("launch", "doctor"):
        assert f"\n  {command}  " in done.stdout
    assert dist_ai(lab, "--version").stdout == f"dist-ai {__version__}\n"


def test_the_help_of_launch_names_every_option(lab: Lab) -> None:
    text = dist_ai(lab, "launch", "--help").stdout
    for option in OPTIONS:
        assert f"  {option}" in text


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["show.py"], []),
        (["show.py", "--epochs", "3", "--workers", "1", "-lr", "0.1", "x"], ["--epochs", "3", "-lr", "0.1", "x"]),
        (["--workers", "1", "show.py", "--fresh", "a", "--lr=1"], ["a", "--lr=1"]),
        (["show.py", "--", "--workers", "4", "--", "-x"], ["--workers", "4", "--", "-x"]),
        (["--engine=local", "show.py", "a b", "", "--", "--help"], ["a b", "", "--help"]),
        (["show.py", "--num-workers", "3", "--", "--wrokers", "2"], ["--num-workers", "3", "--wrokers", "2"]),
        (["--workers", "1", "--", "show.py", "--wrokers", "2", "a"], ["--wrokers", "2", "a"]),
    ],
)
def test_what_is_not_ours_goes_to_the_script(lab: Lab, arguments: list[str], seen: list[str]) -> None:
    done = lab.launch(*arguments)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["show.py", *seen]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lanch", "show.py"], "'lanch' is not one of the commands "),
        (["lanch", "show.py"], "; did you mean 'launch'?"),
        (
            ["launch", "--worker", "2", "show.py"],
            "--worker is not an option of `dist-ai launch`, and the script's own options come after the script; "
            "did you mean '--workers'?",
        ),
        (
            ["launch", "--wrokers", "2", "show.py"],
            "--wrokers is not an option of `dist-ai launch`, and the script's own options come after the script; "
            "did you mean '--workers'?",
        ),
        (
            ["launch", "show.py", "--wrokers=2"],
            "--wrokers is not an option of `dist-ai launch`; did you mean '--workers'? If it is one of show.py, put -- "
            "before the script's own arguments: show.py -- --wrokers=2",
        ),
        (["launch", "show.py", "--worker", "2"], "did you mean '--workers'? If it is one of show.py"),
        (["launch", "show.py", "--run_dir", "x"], "did you mean '--run-dir'? If it is one of show.py"),
        (["launch", "show.py", "-device", "cpu"], "did you mean '--device'? If it is one of show.py"),
        (["launch", "--epochs=3", "show.py"], "--epochs is not an option of `dist-ai launch`"),
        (["launch", "shwo.py"], "did you mean 'show.py'?"),
        (
            ["launch", "show.py", "--engine", "loca"],
            "engine='loca': expected 'local', 'ray' or 'slurm'; did you mean 'local'?",
        ),
        (["launch", "show.py", "--workers", "0"], "workers=0: expected a whole number of 1 or more, or the"),
        (["launch", "show.py", "--timeout", "0"], "timeout_s=0.0: expected a number of seconds above 0 (--timeout)"),
        (
            ["launch", "show.py", "--run-dir", "s3://b/x"],
            "run_dir='s3://b/x' is an address: what all ranks of a launch ",
        ),
    ],
)
def test_mistakes_are_one_line_with_a_suggestion(lab: Lab, arguments: list[str], message: str) -> None:
    done = dist_ai(lab, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dist-ai: error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr


def test_an_option_that_the_script_does_not_know_may_have_been_ours(lab: Lab) -> None:
    lab.script("strict.py", "import argparse; argparse.ArgumentParser().parse_args()")
    done = lab.launch("strict.py", "--num-workers", "2")
    assert done.returncode == 2
    assert "strict.py: error: unrecognized arguments: --num-workers 2\n" in done.stderr
    assert done.stderr.endswith("\n\n--num-workers went to strict.py; did you mean '--workers'?\n")


@pytest.mark.parametrize("arguments", [["launch"], ["launch", "show.py", "--workers", "two"], ["doctor", "--jsn"]])
def test_arguments_that_cannot_be_read_end_with_2(lab: Lab, arguments: list[str]) -> None:
    done = dist_ai(lab, *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("demo", "--run-dir", "run"),
        ("train", "clothes.yaml", "run_dir=run", "--workers", "2"),
    ],
    ids=lambda command: command[0],
)
def test_ctrl_c_ends_a_training_with_one_line_and_no_process_left(lab: Lab, command: tuple[str, ...]) -> None:
    lab.script(
        "clothes.yaml", "data: sample:fashion_mnist\nvalid: test\narch: small_cnn\npretrained: false\nepochs: 50\n"
    )
    process = lab.start("-m", "dist_ai.cli.main", *command)
    assert wait_until(lambda: (lab.folder / "run" / "log.jsonl").exists(), within_s=60)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the foreground
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "dist-ai: interrupted\n")
    assert not lab.left_behind(within_s=1)


def test_main_takes_arguments_from_python(lab: Lab) -> None:
    done = lab.python("-c", "from dist_ai.cli.main import main; main(['launch', 'show.py', '--x'])")
    assert json.loads(done.stdout) == ["show.py", "--x"]


def test_rank_0_writes_to_our_own_output(lab: Lab) -> None:
    # Straight through, so that a progress bar finds the terminal that we have: here, the very same file.
    lab.script("where.py", "import os; print(os.fstat(1).st_ino, os.fstat(2).st_ino); os._exit(0)")
    with (lab.folder / "out").open("w+") as out:
        command = [sys.executable, "-m", "dist_ai.cli.main", "launch", "where.py", "--workers", "2"]
        subprocess.run(command, cwd=lab.folder, env=lab.environment, stdout=out, stderr=out, check=True)
        inode = (lab.folder / "out").stat().st_ino
    assert (lab.folder / "out").read_text() == f"{inode} {inode}\n"
