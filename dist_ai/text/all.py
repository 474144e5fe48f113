"""What a notebook on texts wants, by its first line; a program imports what it uses.

>>> from dist_ai.text.all import *
>>> TextDataLoaders.__name__, Learner.__name__
('TextDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.basics
import dist_ai.text
from dist_ai.basics import *
from dist_ai.text import *

__all__: list[str] = []
__all__ += dist_ai.basics.__all__
__all__ += dist_ai.text.__all__
