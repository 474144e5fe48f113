"""What every application is made of, for a notebook's first line: loaders, callbacks, metrics, optimizers, the Learner.

>>> from dist_ai.basics import *
>>> DataLoaders.__name__, Learner.__name__
('DataLoaders', 'Learner')

An application's own are added by its `all`, such as `dist_ai.vision.all`. A program imports what it uses.
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
from dist_ai.callbacks import *
from dist_ai.core import *
from dist_ai.data import *
from dist_ai.export import *
from dist_ai.layers import *
from dist_ai.learner import *
from dist_ai.losses import *
from dist_ai.metrics import *
from dist_ai.optimizer import *

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
