"""The README's programs run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_step_by_step_programs_run_one_after_the_other(tmp_path: Path) -> None:
    blocks = python_blocks()
    assert blocks[0].startswith("# train.py")
    program = tmp_path / "readme.py"
    program.write_text("\n".join(blocks[1:]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[A-Z][a-z].* [01]\.\d+$", done.stdout, flags=re.MULTILINE), (
        done.stdout
    )  # a label, its confidence
    for name in ("batch.png", "results.png", "fashion/model.safetensors", "runs/readme/metrics.csv"):
        assert (tmp_path / name).stat().st_size > 0


def test_it_opens_with_the_two_commands() -> None:
    assert [line.split()[0] for line in README.read_text().splitlines()[3:5]] == ["launch/quickstart", "launch/test"]
