"""Checkpoints: complete or absent, verified when read, without pickle; and the run directory that holds them."""

from dist_ai.checkpoint.run import Checkpoint, Run

__all__ = ["Checkpoint", "Run"]
