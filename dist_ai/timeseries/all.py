"""What a notebook on time series wants, by its first line; a program imports what it uses.

>>> from dist_ai.timeseries.all import *
>>> TSDataLoaders.__name__, Learner.__name__
('TSDataLoaders', 'Learner')
"""

# ruff: noqa: F403  # all names of these rooms are meant

from __future__ import annotations

import dist_ai.basics
import dist_ai.timeseries
from dist_ai.basics import *
from dist_ai.timeseries import *

__all__: list[str] = []
__all__ += dist_ai.basics.__all__
__all__ += dist_ai.timeseries.__all__
