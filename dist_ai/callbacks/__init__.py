"""Two-way callbacks: the events of the loop, the base class, and those that ship."""

from typing import TYPE_CHECKING

from dist_ai.callbacks.accumulation import GradientAccumulation
from dist_ai.callbacks.activation_stats import ActivationStats
from dist_ai.callbacks.auto_microbatch import AutoMicrobatch
from dist_ai.callbacks.callback import Callback, Phase
from dist_ai.callbacks.channels_last import ChannelsLast
from dist_ai.callbacks.checkpointer import Checkpointer
from dist_ai.callbacks.clipping import GradientClip
from dist_ai.callbacks.collect import CollectData, FetchPreds
from dist_ai.callbacks.compile import Compile
from dist_ai.callbacks.cutmix import CutMix
from dist_ai.callbacks.early_stopping import EarlyStopping
from dist_ai.callbacks.ema import EMA
from dist_ai.callbacks.event import (
    EVENTS,
    CancelBackward,
    CancelBatch,
    CancelEpoch,
    CancelFit,
    CancelStep,
    CancelTrain,
    CancelValidate,
)
from dist_ai.callbacks.filters import when
from dist_ai.callbacks.freeze_batch_norm import FreezeBatchNorm
from dist_ai.callbacks.function import on
from dist_ai.callbacks.logs import RunLog
from dist_ai.callbacks.mc_dropout import MCDropout
from dist_ai.callbacks.mixup import MixUp
from dist_ai.callbacks.not_finite import SkipNaN, TerminateOnNaN
from dist_ai.callbacks.parameter_stats import ParameterStats
from dist_ai.callbacks.plateau import ReduceLROnPlateau
from dist_ai.callbacks.profile import Profile
from dist_ai.callbacks.progress import ProgressBar
from dist_ai.callbacks.recorder import Recorder
from dist_ai.callbacks.remote_control import RemoteControl
from dist_ai.callbacks.rnn import CarryState, ResetRNN, RNNRegularizer
from dist_ai.callbacks.save_best import SaveBest
from dist_ai.callbacks.schedule import ParamScheduler
from dist_ai.callbacks.short_epoch import ShortEpoch
from dist_ai.callbacks.skipped import SkippedSamples
from dist_ai.callbacks.state import TrainState
from dist_ai.callbacks.swa import SWA
from dist_ai.callbacks.tensorboard import TensorBoard
from dist_ai.callbacks.throughput import MemoryMonitor, Throughput
from dist_ai.core.names import missing_name

__all__ = [
    "EMA",
    "EVENTS",
    "SWA",
    "ActivationStats",
    "AutoMicrobatch",
    "Callback",
    "CancelBackward",
    "CancelBatch",
    "CancelEpoch",
    "CancelFit",
    "CancelStep",
    "CancelTrain",
    "CancelValidate",
    "CarryState",
    "ChannelsLast",
    "Checkpointer",
    "CollectData",
    "Compile",
    "CutMix",
    "EarlyStopping",
    "FetchPreds",
    "FreezeBatchNorm",
    "GradientAccumulation",
    "GradientClip",
    "MCDropout",
    "MemoryMonitor",
    "MixUp",
    "ParamScheduler",
    "ParameterStats",
    "Phase",
    "Profile",
    "ProgressBar",
    "RNNRegularizer",
    "Recorder",
    "ReduceLROnPlateau",
    "RemoteControl",
    "ResetRNN",
    "RunLog",
    "SaveBest",
    "ShortEpoch",
    "SkipNaN",
    "SkippedSamples",
    "TensorBoard",
    "TerminateOnNaN",
    "Throughput",
    "TrainState",
    "on",
    "when",
]

if not TYPE_CHECKING:  # for a type checker any name would be there
    __getattr__ = missing_name(__name__)
