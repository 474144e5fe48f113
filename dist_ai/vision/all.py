"""What a notebook on images wants, by its first line; a program imports what it uses.

>>> from dist_ai.vision.all import *
>>> ImageDataLoaders.__name__, Learner.__name__
('ImageDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.basics
import dist_ai.vision
from dist_ai.basics import *
from dist_ai.vision import *

__all__: list[str] = []
__all__ += dist_ai.basics.__all__
__all__ += dist_ai.vision.__all__
