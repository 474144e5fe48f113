"""Nuclei and what is between them: `python segmentation.py FOLDER EPOCHS`, with images, and masks in FOLDER/masks."""

import sys
from pathlib import Path

from dist_ai.data import DataBlock, FuncSplitter, get_image_files
from dist_ai.metrics import Dice
from dist_ai.vision import ImageBlock, MaskBlock, RandomCrop, aug_transforms, unet_learner

folder, epochs = Path(sys.argv[1]), int(sys.argv[2])
block = DataBlock(
    (ImageBlock("L"), MaskBlock(["between", "nucleus"])),
    get_items=lambda path: get_image_files(path / "images"),
    splitter=FuncSplitter(lambda file: file.stem.startswith("right")),
    get_y=lambda file: folder / "masks" / file.name,
    item_tfms=RandomCrop(128, pad_mode="reflection"),
    batch_tfms=aug_transforms(flip_vert=True, max_warp=0.0),
)
dls = block.dataloaders(folder, bs=8)
learn = unet_learner(dls, "small_cnn", pretrained=False, metrics=Dice(), run_dir=None)
learn.fit_one_cycle(epochs, 3e-3)
print(f"dice {learn.validate()[1]:.3f}")
