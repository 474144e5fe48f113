"""Photos sharper than they are: `python super_resolution.py FOLDER EPOCHS`, a folder of photos."""

import sys

import torch
from PIL import Image

from dist_ai.data import DataBlock, get_image_files
from dist_ai.losses import L1Loss
from dist_ai.vision import ImageBlock, OpenImage, RandomCrop, unet_learner

folder, epochs = sys.argv[1], int(sys.argv[2])


def blurred(file: object) -> Image.Image:
    photo = OpenImage()(file)
    return photo.resize((photo.width // 3, photo.height // 3)).resize(photo.size)


block = DataBlock((ImageBlock, ImageBlock), get_items=get_image_files, get_x=blurred, item_tfms=RandomCrop(64))
dls = block.dataloaders(folder, bs=8)
learn = unet_learner(dls, "small_cnn", pretrained=False, loss_func=L1Loss(), run_dir=None)
with torch.no_grad():
    before = torch.stack([(x - y).abs().mean() for x, y in dls.valid]).mean()
learn.fit_one_cycle(epochs, 5e-3)
print(f"error {learn.validate()[0] / before:.3f} of the blurred photos'")
