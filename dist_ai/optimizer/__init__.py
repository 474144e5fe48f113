"""Optimizers: a generic one made of pure steps, recipes over it, `torch.optim`'s by one wrapper, and schedules."""

from dist_ai.optimizer.optimizer import Optimizer, ParamGroup
from dist_ai.optimizer.recipes import SGD, Adam
from dist_ai.optimizer.schedules import combine, constant, cosine, one_cycle
from dist_ai.optimizer.torch_optimizer import TorchOptimizer

__all__ = ["SGD", "Adam", "Optimizer", "ParamGroup", "TorchOptimizer", "combine", "constant", "cosine", "one_cycle"]
