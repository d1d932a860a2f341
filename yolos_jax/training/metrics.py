"""What a run says while it trains: a progress bar, `metrics.jsonl`, TensorBoard and a summary."""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optax
from tensorboardX import SummaryWriter
from tqdm import tqdm

from yolos_jax.distributed.processes import Team
from yolos_jax.errors import InputError
from yolos_jax.objective.matching import HOST_SECONDS
from yolos_jax.training.prefetch import OnDevices
from yolos_jax.training.step import StepReport


class Log:
    """A context manager; what is written for steps after `start` by an earlier run is dropped, they are done again.

    Args:
      folder: `metrics.jsonl` (lines are appended) and `tensorboard/` go here.
      every: steps between lines; the last step always gets one.
      start, total: steps done before, steps of the whole run.
      schedule: learning rate of a step.
      per_epoch: steps of an epoch.
      team: its leading process writes and shows; counts are of its share, times the processes.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        start: int,
        total: int,
        schedule: optax.Schedule,
        per_epoch: int,
        team: Team | None = None,
    ):
        self.every, self.total, self.schedule, self.per_epoch = every, total, schedule, per_epoch
        self.processes = team.count if team else 1
        writes = team is None or team.leads
        self.path = folder / "metrics.jsonl" if writes else Path(os.devnull)
        if writes:
            self._forget_after(start)
        self.file = self.path.open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1) if writes else None
        self.bar = tqdm(total=total, initial=start, unit="step", desc="training", mininterval=1.0, disable=not writes)
        self.sums = {"images": 0, "real": 0, "slots": 0, "steps": 0}
        self.whole, self.began = dict(self.sums), time.perf_counter()
        self.since, self.waited, self.all_waited = self.began, 0.0, 0.0
        HOST_SECONDS.clear()

    def _forget_after(self, start: int) -> None:
        """Keeps the lines of steps up to `start`; a last line that a kill cut short goes too."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = []
        for line in lines:
            try:
                if json.loads(line)["step"] <= start:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                pass
        if kept != lines:
            draft = self.path.with_suffix(".new")
            with _told(draft):
                draft.write_text("".join(f"{line}\n" for line in kept))
            draft.replace(self.path)

    def evaluations(self) -> list[dict[str, Any]]:
        """Step, AP and AP50 of every evaluation that has been finished."""
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [{"step": n["step"], "AP": n["val/AP"], "AP50": n["val/AP50"]} for n in lines if "val/AP" in n]

    def step(self, step: int, report: StepReport, item: OnDevices, waited: float) -> None:
        """Counts one step and, every so many, writes a line with its terms before the update.

        Args:
          step: counts from 1.
          item: its batch.
          waited: seconds for data since the run began.
        """
        self.bar.update()
        images = int((item.indices >= 0).sum()) * self.processes
        for sums in (self.sums, self.whole):
            for key, value in (("images", images), ("real", item.patches), ("slots", item.slots), ("steps", 1)):
                sums[key] += value
        self.all_waited = waited
        if step % self.every and step != self.total:
            return
        values = {name: float(value) for name, value in report.terms._asdict().items()}
        values["grad_norm"] = float(report.grad_norm)
        now = time.perf_counter()  # after the numbers are there
        values["learning_rate"] = float(self.schedule(step - 1))
        values["images_per_second"] = self.sums["images"] / (now - self.since)
        values["data_wait"] = (waited - self.waited) / (now - self.since)
        values["matcher_ms"] = 1e3 * _mean_and_clear()
        values["padding"] = 1.0 - self.sums["real"] / self.sums["slots"]
        self.write(step, values)
        self.since, self.waited = now, waited
        self.sums = dict.fromkeys(self.sums, 0)
        short = {k: f"{values[k]:.3f}" for k in ("total", "ce", "bbox", "giou")}
        self.bar.set_postfix(
            short
            | {"img/s": f"{values['images_per_second']:.1f}", "wait": f"{values['data_wait']:.0%}"}
            | {"match": f"{values['matcher_ms']:.1f}ms", "pad": f"{values['padding']:.1%}"}
        )

    def write(self, step: int, values: dict[str, Any], prefix: str = "") -> None:
        """A line of `metrics.jsonl` and a point of every TensorBoard curve."""
        values = {f"{prefix}{name}": value for name, value in values.items()}
        epoch = (step - 1) // self.per_epoch
        with _told(self.path):
            self.file.write(json.dumps({"step": step, "epoch": epoch, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                if self.board is None:
                    break
                self.board.add_scalar(name if "/" in name else f"train/{name}", value, step)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside is not training's."""
        start = time.perf_counter()
        yield
        pause = time.perf_counter() - start
        self.since, self.began = self.since + pause, self.began + pause

    def say(self, sentence: str) -> None:
        """Prints a line, if there is something to say, without breaking the bar."""
        if sentence and not self.bar.disable:
            tqdm.write(sentence)

    @property
    def padding(self) -> float:
        """Share of the patches of all steps that were padding."""
        return 1.0 - self.whole["real"] / max(self.whole["slots"], 1)

    def summary(self) -> str:
        """What this process did, in one line."""
        seconds, whole = self.ended - self.began, self.whole
        if not whole["steps"]:
            return "no step was done"
        return (
            f"{whole['steps']} steps and {whole['images']} images in {seconds:.0f} s without evaluations "
            f"({whole['images'] / seconds:.1f} images/s), {self.all_waited / seconds:.1%} of it waiting for data; "
            f"{self.padding:.2%} of the patches were padding"
        )

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = time.perf_counter()
        self.bar.close()  # before an error is told, so that it gets a line of its own
        for output in (self.file, self.board):
            with contextlib.suppress(OSError):  # told when it was written
                if output is not None:
                    output.close()


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """A file that cannot be written is one sentence."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} could not be written ({error.strerror or error}); make room there.") from error


def _mean_and_clear() -> float:
    """Mean seconds of the matcher's calls on this host since last asked; 0 for the device's matcher."""
    seconds = [HOST_SECONDS.popleft() for _ in range(len(HOST_SECONDS))]
    return sum(seconds) / len(seconds) if seconds else 0.0
