"""The example trains from a file and reaches its target; and on real reviews, split by film."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import zlib
from pathlib import Path

import kit
import pytest
from texts import reviews

EXAMPLE = Path(__file__).parents[2] / "examples" / "text.py"


def test_the_example_has_fewer_than_30_lines_and_reaches_its_target(tmp_path: Path) -> None:
    code = [line for line in EXAMPLE.read_text().partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) < 30
    with (tmp_path / "reviews.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(reviews(600))
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "reviews.csv"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"accuracy (\d\.\d+)", done.stdout)
    assert found
    assert float(found[1]) >= 0.9
    assert "The film is" in done.stdout
    assert (tmp_path / "export" / "model.json").exists()


@pytest.mark.slow
def test_ulmfit_from_scratch_beats_always_the_same_answer_on_reviews_split_by_film() -> None:
    from dist_ai.metrics import accuracy
    from dist_ai.text import TextDataLoaders, language_model_learner, text_classifier_learner

    rows = [
        {"text": text, "label": label, "valid": zlib.crc32(film.encode()) % 5 == 0}
        for text, label, film in kit.movie_reviews()
    ]
    size = {"emb_sz": 100, "n_hid": 150, "n_layers": 2}
    given = {"text_col": "text", "valid_col": "valid", "num_workers": 0}
    lm = TextDataLoaders.from_df(rows, is_lm=True, seq_len=30, **given)
    learn = language_model_learner(lm, "awd_lstm", config=size, drop_mult=0.3, run_dir=None, progress=False)
    learn.fit_one_cycle(4, 1e-2, wd=0.1)
    dls = TextDataLoaders.from_df(rows, label_col="label", text_vocab=lm.tokenize, **given)
    classifier = text_classifier_learner(
        dls, "awd_lstm", config=size, drop_mult=0.7, metrics=accuracy, run_dir=None, progress=False, wd=0.1
    )
    classifier.model.encoder.load_state_dict(learn.model.encoder.state_dict())
    classifier.freeze()
    classifier.fit_one_cycle(1, 2e-2)
    classifier.freeze_to(-2)
    classifier.fit_one_cycle(1, slice(1e-2 / 2.6**4, 1e-2))
    classifier.unfreeze()
    classifier.fit_one_cycle(2, slice(5e-3 / 2.6**4, 5e-3))
    assert classifier.recorder.final[1] >= 0.70  # of the larger class: 0.574
