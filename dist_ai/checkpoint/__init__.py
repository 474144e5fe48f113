"""Checkpoints: complete or absent, verified when read, without pickle; and the run directory that holds them."""

from dist_ai.checkpoint.checkpoint import Checkpoint, write_consolidated
from dist_ai.checkpoint.chunks import Growing, Part
from dist_ai.checkpoint.run import KeepBest, Run
from dist_ai.checkpoint.saver import Saver, ranks_for_saving, write_checkpoint
from dist_ai.checkpoint.storage import Storage, open_storage

__all__ = [
    "Checkpoint",
    "Growing",
    "KeepBest",
    "Part",
    "Run",
    "Saver",
    "Storage",
    "open_storage",
    "ranks_for_saving",
    "write_checkpoint",
    "write_consolidated",
]
