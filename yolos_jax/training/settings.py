"""Training settings: batches and epochs, optimizer, checkpoints."""

import dataclasses

from yolos_jax.setting import NEVER, YES, setting

FLOAT32 = 3e38  # approximately the largest float32
MOST_STEPS = 2**31 - 1  # steps are counted in int32


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """The length of a run, its batches and its output."""

    batch_size: int = setting(8, "images per batch, over all devices", low=1, high=16_384, also=("bs", "batch"))
    accumulate: int = setting(
        1, "gradient accumulation: number of parts that each batch is split into, to save memory", low=1, high=16_384,
        resume=YES, also=("gradient_accumulation_steps", "grad_accum"),
    )  # fmt: skip
    epochs: int = setting(150, "number of epochs", low=1, high=100_000, also=("num_epochs", "num_train_epochs"))
    least_steps: int = setting(
        0, "minimum number of training steps; epochs are added if train.epochs has fewer", low=0, high=MOST_STEPS,
        also=("min_steps",),
    )  # fmt: skip
    max_steps: int = setting(0, "stop after this number of steps; 0 for all epochs", low=0, high=MOST_STEPS, resume=YES)
    patience: int = setting(
        0, "early stopping: number of evaluations without improvement; 0 to disable", low=0, high=100_000, resume=YES,
        also=("early_stopping_patience",),
    )  # fmt: skip
    ema: float = setting(
        0.0, "decay, such as 0.9998, of an exponential moving average of the parameters, used for evaluation; warms up "
        "as min(ema, (1 + t) / (10 + t)) after t updates; 0 to disable",
        low=0, high=0.9999999, also=("ema_decay",),
    )  # fmt: skip
    log_every: int = setting(50, "steps between lines in metrics.jsonl", low=1, high=MOST_STEPS, resume=YES)
    log: tuple[str, ...] = setting(
        ("tensorboard",), "loggers besides metrics.jsonl; wandb, mlflow and trackio are optional extras", host=True,
        choices=("tensorboard", "wandb", "mlflow", "trackio"), lengths=(0, 4), resume=YES, also=("report_to",),
    )  # fmt: skip
    curves: bool = setting(
        True, "draw curves.png (loss terms, metrics, learning rate, images/s) and eight validation images with "
        "annotations and detections after every evaluation", resume=YES,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """The checkpoints of a run."""

    every_steps: int = setting(
        1000, "steps between checkpoints; also saved before every evaluation and at the end", low=1,
        high=MOST_STEPS, resume=YES, also=("save_steps",),
    )  # fmt: skip
    keep: int = setting(
        3, "number of latest checkpoints to keep, plus the best by AP or top-1", low=1, high=10_000, resume=YES
    )


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """The optimizer and its learning rate."""

    name: str = setting(
        "adamw", "optax optimizer: adamw, lamb, lion or nadamw",
        choices=("adamw", "lamb", "lion", "nadamw"), resume=NEVER,
    )  # fmt: skip
    learning_rate: float = setting(2.5e-5, "base learning rate", low=0, high=FLOAT32, also=("lr", "lr0"))
    min_lr: float = setting(1e-7, "learning rate at the end of the schedule", low=0, high=FLOAT32, also=("lrf",))
    schedule: str = setting(
        "epoch", "cosine schedule: epoch (the reference's, constant within an epoch) or step (updated every step)",
        choices=("epoch", "step"), also=("lr_scheduler",),
    )  # fmt: skip
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up", low=0, high=100_000, also=("warmup",))
    warmup_steps: int = setting(
        0, "minimum number of linear warm-up steps, if optimizer.warmup_epochs has fewer; needs "
        "optimizer.schedule=step", low=0, high=MOST_STEPS,
    )  # fmt: skip
    weight_decay: float = setting(1e-4, "decoupled weight decay", low=0, high=FLOAT32, also=("wd",))
    clip_norm: float = setting(
        0.1, "maximum gradient norm of the trained parameters; 0 for no clipping", low=0, high=FLOAT32,
        also=("max_grad_norm", "grad_clip", "clip_max_norm"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OptimizerSettings(ScheduleSettings):
    """The optimizer's settings with learning rates per parameter."""

    freeze: tuple[str, ...] = setting(
        (), "names of parameters or groups to freeze, which may contain the wildcards *, ? and [0-5], for example "
        "(det_tokens, blocks.[0-5]); docs/training.md lists the names", lengths=(0, 100), resume=NEVER,
    )  # fmt: skip
    backbone_lr: float | None = setting(
        None, "base learning rate of the backbone (the parts shared with a classifier); None uses "
        "optimizer.learning_rate", low=1e-12, high=FLOAT32, also=("lr_backbone",),
    )  # fmt: skip
    layer_decay: float = setting(
        1.0, "layer-wise decay: ratio of each backbone block's learning rate to the next block's", low=0.01, high=1
    )
