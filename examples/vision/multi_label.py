"""Which digits stand in a picture of two: `python multi_label.py FOLDER EPOCHS`, with images and labels.csv."""

import sys

from dist_ai.metrics import accuracy_multi
from dist_ai.vision import ImageDataLoaders, vision_learner

folder, epochs = sys.argv[1], int(sys.argv[2])
dls = ImageDataLoaders.from_csv(folder, label_delim=" ", mode="L", bs=64)
learn = vision_learner(dls, "small_cnn", pretrained=False, metrics=accuracy_multi, run_dir=None)
learn.fit_one_cycle(epochs, 1e-2)
print(f"accuracy_multi {learn.validate()[1]:.3f}")
