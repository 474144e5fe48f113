"""The programs of the guide to the applications run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[1] / "docs" / "applications.md"


def test_the_programs_run_one_after_the_other(tmp_path: Path) -> None:
    program = tmp_path / "guide.py"
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)))
    done = subprocess.run(
        [sys.executable, program],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for begin in ("tables: ", "texts: A lovely", "series: ", "films: ["):
        assert f"\n{begin}" in done.stdout
    assert "what counts is age\n" in done.stdout
    assert "['good', 'bad']" in done.stdout
