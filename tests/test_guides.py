"""The programs of the guides run as they stand, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
SAID = {
    "applications": [
        *("\ntables: ", "\ntexts: A lovely", "\nseries: ", "\nfilms: ["),
        *("what counts is age\n", "['good', 'bad']"),
    ],
    "streaming": ["ParquetData(240 rows of label, brightness in 12 row groups of 4 file(s)"],
}


@pytest.mark.parametrize("guide", SAID)
def test_the_programs_of_a_guide_run(guide: str, tmp_path: Path) -> None:
    program = tmp_path / "guide.py"
    text = (DOCS / f"{guide}.md").read_text()
    program.write_text("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)))
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
    for line in SAID[guide]:
        assert line in done.stdout
