"""What a notebook on images wants, by its first line; a program imports what it uses.

>>> from dist_ai.vision.all import *
>>> ImageDataLoaders.__name__, Learner.__name__
('ImageDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.callbacks
import dist_ai.core
import dist_ai.data
import dist_ai.export
import dist_ai.layers
import dist_ai.learner
import dist_ai.losses
import dist_ai.metrics
import dist_ai.optimizer
import dist_ai.vision
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
__all__ += dist_ai.callbacks.__all__
__all__ += dist_ai.core.__all__
__all__ += dist_ai.data.__all__
__all__ += dist_ai.export.__all__
__all__ += dist_ai.layers.__all__
__all__ += dist_ai.learner.__all__
__all__ += dist_ai.losses.__all__
__all__ += dist_ai.metrics.__all__
__all__ += dist_ai.optimizer.__all__
__all__ += dist_ai.vision.__all__
