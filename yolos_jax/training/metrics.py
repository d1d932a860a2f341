"""Reports the progress of a run: a progress bar, `metrics.jsonl`, the task's sink and a summary."""

import contextlib
import json
import os
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from yolos_jax.address import check_alone
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import counted, written
from yolos_jax.training.prefetch import DeviceBatch
from yolos_jax.training.step import StepReport
from yolos_jax.training.task import Task

METRICS = "metrics.jsonl"
RATE, SPEED = "learning_rate", "images_per_second"
WIDTH = 100  # maximum characters of the progress bar
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}, {remaining} left"


class Metrics:
    """Appends a line to `folder/metrics.jsonl` every `every` steps and after the last step; a context manager.

    Loss terms and the gradient norm are means over the steps since the last line, at most the latest 1,000. Lines of an
    earlier run for steps after `start` are dropped, because these steps are repeated. Only the primary process writes;
    its counts are multiplied by the number of processes. All processes raise `InputError` if a line cannot be written.
    """

    def __init__(self, folder: Path, task: Task, every: int, start: int, processes: Processes):
        self.task = task
        self.every = every
        self.processes = processes
        writes = processes.is_primary
        self.path = folder / METRICS if writes else Path(os.devnull)
        if writes:
            self._forget_after(start)
        self.file = self.path.open("a", encoding="utf-8")
        self.sink: Any = task.sink(folder, start, self.say) if writes else None
        columns = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
        how = {"bar_format": BAR, "ncols": columns, "mininterval": 1.0, "disable": not writes}
        self.bar = tqdm(None, self._epoch(start), task.steps, initial=start, unit="step", **how)
        self.sums: Counter[str] = Counter()  # since the last line
        self.whole: Counter[str] = Counter()
        self.since = self.began = time.perf_counter()
        self.waited = self.all_waited = 0.0
        self.reports: deque[StepReport] = deque(maxlen=1000)  # for the steps since the last line
        self.scores: list[float] = []  # the main metric of each evaluation
        self.newest: tuple[str, ...] = ()  # the loss and the speed from the last line

    def _forget_after(self, start: int) -> None:
        """Keeps the lines for steps up to `start`; drops damaged lines, such as those cut off by a kill."""
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        kept, damaged = [], 0
        for i, line in enumerate(lines):
            numbers = numbers_of(line)
            if numbers is None:
                damaged += i < len(lines) - 1  # a last line cut off by a kill is not reported
            elif numbers["step"] <= start:
                kept.append(line)
        if damaged:
            print(f"dropped {counted(damaged, 'damaged line')} from {self.path}")
        if kept != lines:
            draft = self.path.with_suffix(".new")
            with written(draft):
                draft.write_bytes(b"".join(line + b"\n" for line in kept))
            draft.replace(self.path)

    def evaluations(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The step and the metrics `names` of every completed evaluation."""
        lines = [json.loads(line) for line in self.path.read_bytes().splitlines()]
        found = [line for line in lines if f"val/{names[0]}" in line]
        return [{"step": line["step"]} | {name: line[f"val/{name}"] for name in names} for line in found]

    def step(self, batch: DeviceBatch, report: StepReport, waited: float) -> None:
        """Records one step, and the seconds `waited` for data since the run started; writes a line if one is due."""
        done = batch.step + 1
        self.bar.set_description_str(self._epoch(batch.step), refresh=False)
        self.bar.update()
        images = int((batch.indices >= 0).sum()) * self.processes.count
        for sums in (self.sums, self.whole):
            sums.update(images=images, real=batch.real, slots=len(batch.indices) * batch.bucket, steps=1)
        self.reports.append(report)
        self.all_waited = waited
        if done % self.every == 0 or done == self.task.steps:
            self.processes.agree(self._line, done)

    def _line(self, step: int) -> None:
        reports = jax.device_get([(r.loss.terms, {"grad_norm": r.grad_norm}, r.loss.measured) for r in self.reports])
        numbers = [terms | norm | measured for terms, norm, measured in reports]
        now = time.perf_counter()  # after the values are available
        values = {name: float(np.mean([each[name] for each in numbers], dtype=np.float64)) for name in numbers[0]}
        values[RATE] = float(self.task.schedule(step - 1))
        values[SPEED] = self.sums["images"] / (now - self.since)
        values["data_wait"] = (self.all_waited - self.waited) / (now - self.since)
        values["padding"] = 1.0 - self.sums["real"] / self.sums["slots"]
        self.since, self.waited = now, self.all_waited
        self.reports.clear()
        self.sums.clear()
        self.newest = f"loss {values[self.task.shown[0]]:.3f}", f"{values[SPEED]:.1f} images/s"
        self._show()
        self.write(step, values)

    def _epoch(self, step: int) -> str:
        """The epoch of a step, counted from 1, and the number of epochs."""
        length = self.task.steps_per_epoch
        epochs = -(-self.task.steps // length)
        return f"epoch {min(step // length + 1, epochs)}/{epochs}"

    def _show(self) -> None:
        """Shows the newest values next to the progress bar: loss, last and best result, speed."""
        scores = [score for score in self.scores if score >= 0]  # COCO reports -1 for an undefined metric
        result = [f"{self.task.headline[0]} {scores[-1]:.3f} (best {max(scores):.3f})"] if scores else []
        self.bar.set_postfix_str(", ".join([*self.newest[:1], *result, *self.newest[1:]]))

    def scored(self, score: float) -> None:
        """Adds the main metric of an evaluation to the progress bar."""
        self.scores.append(score)
        self._show()

    def write(
        self, step: int, values: dict[str, Any], prefix: str = "", details: Mapping[str, float] | None = None
    ) -> None:
        """Writes a line to `metrics.jsonl` and a point of every curve to the sink; `details` go only to the sink."""
        values = {f"{prefix}{name}": value for name, value in values.items()}
        epoch = (step - 1) // self.task.steps_per_epoch
        check_alone(self.path.parent)
        with written(self.path):
            self.file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self.file.flush()
            if self.sink is not None:
                curves = {**values, **(details or {})}
                self.sink.add(step, {name if "/" in name else f"train/{name}": curves[name] for name in curves})

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time spent in this context from the training time."""
        start = time.perf_counter()
        yield
        pause = time.perf_counter() - start
        self.since, self.began = self.since + pause, self.began + pause

    def doing(self, what: str) -> None:
        """Shows the current activity in place of the epoch; "" for training."""
        self.bar.set_description_str(what or self._epoch(self.bar.n))

    def say(self, sentence: str) -> None:
        """Prints a line without breaking the progress bar."""
        if not self.bar.disable:
            tqdm.write(sentence)

    @property
    def padding(self) -> float:
        """Fraction of the patches in all steps that are padding."""
        return 1.0 - self.whole["real"] / max(self.whole["slots"], 1)

    def summary(self) -> str:
        """A one-line summary of the steps of this process."""
        seconds = self.ended - self.began
        steps, images = self.whole["steps"], self.whole["images"]
        if not steps:
            return "no training steps were run"
        return (
            f"{steps} steps and {images} images in {seconds:.0f} s excluding evaluations ({images / seconds:.1f} "
            f"images/s), {self.all_waited / seconds:.1%} of the time waiting for data; "
            f"{self.padding:.2%} of the patches were padding"
        )

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.perf_counter()
        self.bar.close()  # before an error is printed, so that it starts on a new line
        for output in filter(None, (self.file, self.sink)):
            with contextlib.suppress(OSError):  # a failed write has already been reported
                output.close()


def numbers_of(line: bytes) -> dict[str, Any] | None:
    """The values in a line of `metrics.jsonl`, including its `step`; None if the line is damaged."""
    try:
        numbers = json.loads(line)
        return numbers if type(numbers["step"]) is int else None
    except (ValueError, KeyError, TypeError, RecursionError):  # ValueError: not JSON, or not UTF-8
        return None
