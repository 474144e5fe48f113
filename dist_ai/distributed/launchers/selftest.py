"""Proves that processes can meet and exchange: launched by `dist-ai doctor`. Prints nothing when all is well."""

from __future__ import annotations

import torch

from dist_ai.distributed import join


def main() -> None:
    """Adds up the ranks over all processes."""
    collectives = join()
    size = collectives.world.world_size
    total = collectives.all_reduce(torch.tensor([collectives.world.rank]), what="self-test")
    if total.item() != size * (size - 1) // 2:
        raise RuntimeError(f"the ranks of {size} processes add up to {total.item()}")


if __name__ == "__main__":
    main()
