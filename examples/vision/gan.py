"""Digits out of noise: `python gan.py FOLDER EPOCHS`, a folder of images of 32 x 32; writes fakes.png there."""

import sys

import torch
from torchvision.utils import save_image

from dist_ai.data import DataBlock, get_image_files
from dist_ai.export import ModelSpec
from dist_ai.vision import ImageBlock, NoiseBlock, Normalize, Resize, gan_learner
from dist_ai.vision.models import gan

folder, epochs = sys.argv[1], int(sys.argv[2])
block = DataBlock(
    (NoiseBlock(64), ImageBlock("L")),
    get_items=get_image_files,
    item_tfms=Resize(32),
    batch_tfms=Normalize([0.5], [0.5]),
)
dls = block.dataloaders(folder, bs=64)
shape = {"size": 32, "channels": 1, "noise": 64, "width": 16}
learn = gan_learner(dls, gan(**shape), spec=ModelSpec("gan", shape), run_dir=None)
learn.fit(epochs, [1e-3, 4e-4])
fakes = torch.stack([learn.predict(i)[0].as_subclass(torch.Tensor) for i in range(16)])
save_image(fakes, f"{folder}/fakes.png", nrow=4)
print(f"brightness {fakes.mean():.3f}")
