"""What a notebook on images wants, by its first line; a program imports what it uses.

>>> from dist_ai.vision.all import *
>>> ImageDataLoaders.__name__, Learner.__name__
('ImageDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

from dist_ai import callbacks, core, data, export, layers, learner, losses, metrics, optimizer, vision
from dist_ai.callbacks import *
from dist_ai.core import *
from dist_ai.data import *
from dist_ai.export import *
from dist_ai.layers import *
from dist_ai.learner import *
from dist_ai.losses import *
from dist_ai.metrics import *
from dist_ai.optimizer import *
from dist_ai.vision import *

__all__: list[str] = []
__all__ += callbacks.__all__
__all__ += core.__all__
__all__ += data.__all__
__all__ += export.__all__
__all__ += layers.__all__
__all__ += learner.__all__
__all__ += losses.__all__
__all__ += metrics.__all__
__all__ += optimizer.__all__
__all__ += vision.__all__
