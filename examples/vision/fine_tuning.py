"""Fine-tuning ImageNet's weights: `python fine_tuning.py PHOTOS WEIGHTS`, a folder of folders of photos and a file."""

import sys

from dist_ai.metrics import accuracy
from dist_ai.vision import ImageDataLoaders, Resize, vision_learner

photos, weights = sys.argv[1:]
dls = ImageDataLoaders.from_folder(photos, valid_pct=0.4, item_tfms=Resize(128, "squish"), bs=6, num_workers=0)
learn = vision_learner(dls, "mobilenet_v2", weights=weights, metrics=accuracy, run_dir=None)
learn.fine_tune(1, 5e-3, freeze_epochs=7)
print(
    f"accuracy {learn.validate(dls.train)[1]:.3f} of the photos that it has seen, {learn.validate()[1]:.3f} of others"
)
