"""Small tables for the tests of tabular data, and learners that learn them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from dist_ai.learner import Learner
from dist_ai.tabular import TabularDataLoaders, tabular_learner

CATS, CONTS = ["job", "town"], ["age", "hours"]


def people(num: int = 120, *, seed: int = 0) -> pd.DataFrame:
    """Returns rows whose `rich` follows from job and age, and whose `score` is a number; some jobs and ages are missing."""
    random = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "job": random.choice(["cook", "pilot", "smith"], num),
            "town": random.choice(["A", "B"], num),
            "age": random.integers(20, 60, num).astype(float),
            "hours": random.normal(40, 5, num),
        }
    )
    frame["score"] = frame["age"] / 10 + 2 * (frame["job"] == "pilot")
    frame["rich"] = np.where(frame["score"] > frame["score"].median(), "yes", "no")
    frame.loc[random.random(num) < 0.1, "age"] = np.nan
    frame.loc[random.random(num) < 0.1, "job"] = None
    return frame


def people_loaders(frame: Any = None, **options: Any) -> TabularDataLoaders:
    given = {"cat_names": CATS, "cont_names": CONTS, "y_names": "rich", "bs": 16, "valid_pct": 0.25, **options}
    return TabularDataLoaders.from_df(people() if frame is None else frame, **given)


def people_learner(dls: TabularDataLoaders | None = None, **options: Any) -> Learner:
    return tabular_learner(
        people_loaders() if dls is None else dls, **{"layers": [16], "run_dir": None, "progress": False, **options}
    )
