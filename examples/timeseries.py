"""Tells days of winter from days of summer by a household's demand for electricity, hour by hour (ItalyPowerDemand).

python examples/timeseries.py FOLDER    # that has ItalyPowerDemand_TRAIN.ts and _TEST.ts of the UCR archive
"""

import sys
from pathlib import Path

from dist_ai.timeseries import Standardize, TSDataLoaders, ts_learner


def main(folder: str) -> float:
    files = [Path(folder, f"ItalyPowerDemand_{part}.ts") for part in ("TRAIN", "TEST")]
    dls = TSDataLoaders.from_ts_file(*files, scale=Standardize(), bs=16, val_bs=256)
    learn = ts_learner(dls, "FCN")
    learn.fit_one_cycle(12, 3e-3)
    learn.export("model")
    print(f"accuracy: {(accuracy := learn.recorder.final[1]):.3f}")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1])
