"""What this machine offers to workers, found without importing torch here: a launcher must be up at once."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

from dist_ai.errors import ConfigError

__all__ = ["allowed_cores", "loopback_interface", "require_gpus", "share_of_cores"]


def allowed_cores() -> float:
    """Returns how many cores this process may use, in a container the share it is held to: 1.5, say."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return min(cores, int(quota) / int(period))
    except (OSError, ValueError):  # no such limit, or "max"
        return cores


def share_of_cores(workers: int) -> int:
    """Returns how many threads each of `workers` processes of this machine gets."""
    return max(1, int(allowed_cores()) // workers)


def loopback_interface() -> str | None:
    """Returns the network interface by which processes of this machine reach each other, or None if it has none."""
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), None)


def require_gpus(workers: int, device: str | None) -> None:
    """Refuses more workers than GPUs: each worker takes one.

    Args:
        workers: number of processes on this machine.
        device: "cuda" if GPUs were asked for, "cpu" if not, None to use them where there are some.

    Raises:
        ConfigError: this machine shows GPUs, but fewer than `workers`; or GPUs were asked for and it shows none.
    """
    if device == "cpu":
        return
    gpus = _driver_count()
    if gpus >= workers or (gpus == 0 and device is None):
        return
    # The quick count says no; before we refuse, the one who will use them is asked. It knows AMD's GPUs, too.
    gpus = _torch_count()
    if gpus < workers and (gpus > 0 or device == "cuda"):
        fewer = f"use --workers {gpus}" if gpus else "see `dist-ai doctor` for what is missing"
        raise ConfigError(
            f"workers={workers} needs {workers} GPU(s), one for each worker, but this machine shows {gpus}; "
            f"{fewer}, or use --device cpu"
        )


def _driver_count() -> int:
    # NVML and not cuInit: the latter would make CUDA unusable in processes that the caller forks afterwards.
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        count = ctypes.c_uint(0)
        installed = count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        nvml.nvmlShutdown()
    mask = os.environ.get("CUDA_VISIBLE_DEVICES")
    if mask is None:
        return installed
    return min(installed, len([entry for entry in mask.split(",") if entry.strip() not in ("", "-1")]))


def _torch_count() -> int:
    question = "import torch; print(torch.cuda.device_count())"
    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, check=False)
    return int(answer.stdout) if answer.returncode == 0 and answer.stdout.strip().isdigit() else 0
