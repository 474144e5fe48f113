"""Nuclei in boxes: `python detection.py FOLDER EPOCHS`, with images and COCO's coco.json."""

import sys
from pathlib import Path

from dist_ai.vision import CocoMAP, DetectionDataLoaders, Flip, RandomCrop, detection_learner

folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
dls = DetectionDataLoaders.from_coco(folder, folder / "coco.json", item_tfms=RandomCrop(128), batch_tfms=[Flip()], bs=4)
shape = {"finest": 4, "width": 32, "max_detections": 50}
learn = detection_learner(
    dls, "small_cnn", pretrained=False, metrics=CocoMAP("map_50"), detector_options=shape, run_dir=None
)
learn.fit_one_cycle(epochs, 1e-2)
print(f"map_50 {learn.validate()[1]:.3f}")
