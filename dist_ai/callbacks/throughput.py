"""How fast a model trains, what share of the device's arithmetic it uses, and how much memory."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from typing import ClassVar, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.recorder import Recorder
from dist_ai.errors import ConfigError

__all__ = ["MemoryMonitor", "Speed", "Throughput", "peak_flops"]

# Dense arithmetic in bfloat16 (float16 where there is none) a second, from the makers' data sheets; the first name that is
# part of the device's name holds.
_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "T4": 65e12,
}


def peak_flops(device_name: str) -> float | None:
    """Returns the operations a second that a GPU can do at most in half precision; None if it is not known.

    >>> peak_flops("NVIDIA A100-SXM4-80GB") / 1e12
    312.0
    """
    return next((peak for name, peak in _PEAKS.items() if name in device_name), None)


class Speed(NamedTuple):
    """How fast it trained up to a step, since the one before.

    Attributes:
        step: the last step, counted over all fits.
        samples_per_s: over all ranks.
        tokens_per_s: likewise; 0 if the first input is no batch of sequences of integers.
        mfu: share of the devices' arithmetic that the model's own operations take (model FLOPs utilisation; Chowdhery et al.,
            arXiv:2204.02311); NaN if the peak is not known.
    """

    step: int
    samples_per_s: float
    tokens_per_s: float
    mfu: float


class Throughput(Callback):
    """Measures samples and tokens a second, and the share of the device's arithmetic that is used (MFU).

    It reads the clock when the recorder reads losses from the device, which is when the device has caught up: so it
    never waits itself. Validation does not count. A training step is taken to cost three times the operations of the forward
    pass, which are counted once on the first batch. TensorBoard shows them as ``throughput/...``.

    Args:
        peak: operations a second that one device can do; by default what is known of a GPU in half precision.

    Attributes:
        speeds: what was measured in this fit, as `Speed`.
        flops_per_sample: operations of a training step for one sample; 0 before the first batch.

    Raises:
        ConfigError: `peak` is not more than 0.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, whose readings it times
    may_cancel: ClassVar[bool] = False

    def __init__(self, *, peak: float | None = None) -> None:
        if peak is not None and not peak > 0:
            raise ConfigError(f"Throughput(peak={peak}): expected operations a second, such as 312e12")
        self.peak = peak
        self.speeds: list[Speed] = []
        self.flops_per_sample = 0.0
        self._tokens_per_sample = 0.0
        self._counter: FlopCounterMode | None = None
        self._counting = contextlib.ExitStack()

    def before_fit(self) -> None:
        """Begins to measure."""
        device = self.learn.dls.device
        if self.peak is None and device.type == "cuda":
            self.peak = peak_flops(torch.cuda.get_device_name(device))
        self.speeds, self.flops_per_sample = [], 0.0
        self._restart()

    def before_train(self) -> None:
        """Starts the clock."""
        self._restart()

    def before_batch(self) -> None:
        """Counts the operations of the first batch."""
        state = self.state
        if not state.training or self.flops_per_sample or state.share is None:
            return
        first = state.xb[0]
        rows = len(state.share.indices)
        if isinstance(first, torch.Tensor) and first.dim() > 1 and not first.is_floating_point():
            self._tokens_per_sample = first.numel() / rows
        self._counter = FlopCounterMode(display=False)
        self._counting.enter_context(self._counter)

    def after_pred(self) -> None:
        """Ends the count after the forward pass."""
        if self._counter is not None and self.state.share is not None:
            self._counting.close()
            self.flops_per_sample = 3 * self._counter.get_total_flops() / len(self.state.share.indices)
            self._counter = None
            self._restart()

    def after_batch(self) -> None:
        """Measures, if the recorder has read something."""
        self._stop_counting()  # of a batch that was cancelled
        self._measure()

    def after_train(self) -> None:
        """Measures the epoch's last steps."""
        self._measure()

    def after_validate(self) -> None:
        """Starts the clock again after a validation in the middle of an epoch."""
        self._restart()

    def after_fit(self) -> None:
        """Stops whatever is under way."""
        self._stop_counting()

    def _stop_counting(self) -> None:
        self._counting.close()
        self._counter = None

    @property
    def _recorder(self) -> Recorder:
        return self.learn.callbacks.find(Recorder)

    def _restart(self) -> None:
        self._num_read, self._began = len(self._recorder.losses), time.perf_counter()

    def _measure(self) -> None:
        recorder = self._recorder
        num_read = len(recorder.losses)
        if not self.state.fitting or num_read == self._num_read:
            return
        samples = sum(recorder.sizes[self._num_read : num_read])
        per_s = samples / max(1e-9, time.perf_counter() - self._began)
        world_size = self.learn.collectives.world.world_size
        mfu = per_s * self.flops_per_sample / (self.peak * world_size) if self.peak else float("nan")
        speed = Speed(num_read - 1, per_s, per_s * self._tokens_per_sample, mfu)
        self.speeds.append(speed)
        recorder.add_scalar("throughput/samples_per_s_now", speed.samples_per_s, speed.step)
        if speed.tokens_per_s:
            recorder.add_scalar("throughput/tokens_per_s", speed.tokens_per_s, speed.step)
        if self.peak:
            recorder.add_scalar("throughput/mfu", speed.mfu, speed.step)
        self._restart()


class MemoryMonitor(Callback):
    """Adds to each epoch's row the most memory that any rank has taken so far, in MiB, as ``memory_mib``.

    On a GPU what torch has allocated there, on a CPU what the process has resided in. Costs a small exchange an epoch.
    """

    phase: ClassVar[Phase] = Phase.RECORD  # after the Recorder, whose row it adds to
    may_cancel: ClassVar[bool] = False

    def after_epoch(self) -> None:
        """Adds the number to the row."""
        here = torch.tensor([_memory_mib(self.learn.dls.device)], dtype=torch.float64)
        most = float(self.learn.collectives.all_reduce(here, "max", what="memory"))
        if epochs := self.learn.callbacks.find(Recorder).epochs:
            epochs[-1]["memory_mib"] = most


def _memory_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes there, KiB elsewhere
