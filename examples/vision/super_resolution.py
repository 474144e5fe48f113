"""Photos sharper than they are: `python super_resolution.py FOLDER EPOCHS`, a folder of photos."""

import sys

from PIL import Image
from torch import nn

from dist_ai.data import DataBlock, get_image_files
from dist_ai.losses import L1Loss
from dist_ai.vision import ImageBlock, OpenImage, RandomCrop, unet_learner

folder, epochs = sys.argv[1], int(sys.argv[2])


def blurred(file: object) -> Image.Image:
    photo = OpenImage()(file)
    return photo.resize((photo.width // 3, photo.height // 3)).resize(photo.size)


block = DataBlock((ImageBlock, ImageBlock), get_items=get_image_files, get_x=blurred, item_tfms=RandomCrop(64))
learn = unet_learner(block.dataloaders(folder, bs=4), "small_cnn", pretrained=False, loss_func=L1Loss(), run_dir=None)
# It learns what is missing in the photo that it is given, beginning with nothing.
learn.model.register_forward_hook(lambda _, given, missing: given[0] + missing)
nn.init.zeros_(learn.model.final[-1][0].weight)
before = learn.validate()[0]
learn.fit_one_cycle(epochs, 5e-3)
print(f"error {learn.validate()[0] / before:.3f} of the blurred photos'")
