"""What a run says while it trains: a progress bar and `metrics.jsonl`."""

import json
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from yolos_jax.training.step import StepReport


class Log:
    """A progress bar, and a line of JSON every so many steps; a context manager.

    Args:
      path: the file that lines are appended to.
      every: steps between lines; the last step always gets one.
      total: steps of the run.
      rates: learning rate of every epoch.
      per_epoch: steps of an epoch.
    """

    def __init__(self, path: Path, every: int, total: int, rates: np.ndarray, per_epoch: int):
        self.file, self.every, self.total = path.open("a"), every, total
        self.rates, self.per_epoch = rates, per_epoch
        self.bar = tqdm(total=total, unit="step", desc="training", mininterval=1.0)
        self.images, self.since = 0, time.perf_counter()

    def write(self, step: int, report: StepReport, images: int) -> None:
        """`step` counts from 1; the line holds that step's terms before its update."""
        self.bar.update()
        self.images += images
        if step % self.every and step != self.total:
            return
        line = {name: float(value) for name, value in report.terms._asdict().items()}
        line |= {"grad_norm": float(report.grad_norm)}
        now, epoch = time.perf_counter(), (step - 1) // self.per_epoch  # after the numbers are there
        line |= {"learning_rate": float(self.rates[epoch]), "images_per_second": self.images / (now - self.since)}
        self.images, self.since = 0, now
        self.file.write(json.dumps({"step": step, "epoch": epoch, **line}) + "\n")
        self.file.flush()
        self.bar.set_postfix({k: f"{line[k]:.3f}" for k in ("total", "ce", "bbox", "giou")})

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()  # before an error is told, so that it gets a line of its own
        self.file.close()
