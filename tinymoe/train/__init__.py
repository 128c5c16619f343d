"""Training: the optimizer, schedules, data, checkpoints, and the loop that joins them."""

from .data import TokenData
from .optim import AdamW, clip_grad_norm
from .trainer import TrainConfig, Trainer

__all__ = ["AdamW", "TokenData", "TrainConfig", "Trainer", "clip_grad_norm"]
