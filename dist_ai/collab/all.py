"""What a notebook on ratings wants, by its first line; a program imports what it uses.

>>> from dist_ai.collab.all import *
>>> CollabDataLoaders.__name__, Learner.__name__
('CollabDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.basics
import dist_ai.collab
from dist_ai.basics import *
from dist_ai.collab import *

__all__: list[str] = []
__all__ += dist_ai.basics.__all__
__all__ += dist_ai.collab.__all__
