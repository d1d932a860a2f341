"""The settings of training."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    batch_size: int = 8
    images_per_replica: int = 1
    accumulate: int = 1
    epochs: int = 150
    max_steps: int = 0
    ema: float = 0.0
    log_every: int = 50
    curves: bool = True


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    every_steps: int = 1000
    keep: int = 3
