"""What a notebook on tables wants, by its first line; a program imports what it uses.

>>> from dist_ai.tabular.all import *
>>> TabularDataLoaders.__name__, Learner.__name__
('TabularDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.basics
import dist_ai.tabular
from dist_ai.basics import *
from dist_ai.tabular import *

__all__: list[str] = []
__all__ += dist_ai.basics.__all__
__all__ += dist_ai.tabular.__all__
