"""Showing, chosen by type: applications say how a batch and its predictions of their types are drawn.

Both draw on a matplotlib figure and return it; the caller shows it in a notebook, saves it, or hands it to TensorBoard.
"""

from __future__ import annotations

from dist_ai.core.dispatch import Dispatch

__all__ = ["show_batch", "show_results"]

show_batch = Dispatch("show_batch", arity=2)
"""(input, target, samples) -> Figure: decoded samples, a list of (input, target) tuples; types as in the batch."""

show_results = Dispatch("show_results", arity=2)
"""(input, target, samples, predictions) -> Figure: decoded samples and the decoded prediction of each."""
