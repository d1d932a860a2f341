"""A training run: its fixed parts, its progress, and the actions after each step."""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from yolos_jax.address import only_run_in
from yolos_jax.data.loader import Share
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.distributed.processes import Processes, place
from yolos_jax.errors import InputError, counted, make_folder
from yolos_jax.training.compiled_step import BucketedStep
from yolos_jax.training.metrics import Metrics
from yolos_jax.training.prefetch import Batches, DeviceBatch
from yolos_jax.training.rates import make_average, make_hold
from yolos_jax.training.resume import begin
from yolos_jax.training.saving import BEST, Checkpoints, best_meta, best_so_far
from yolos_jax.training.settings import RunSettings
from yolos_jax.training.signals import Signals
from yolos_jax.training.step import TrainState, make_gradient, make_step
from yolos_jax.training.task import Evaluated, MakeTask, Options, Pictures, Task

DISAGREEMENT = 0.1  # a note is printed if results with and without averaging differ by more than this fraction


class Outcome(NamedTuple):
    """How a run ended."""

    workdir: Path | str
    step: int  # total number of updates
    signal: int  # number of the signal that ended it early, or 0
    compiled: tuple[int, ...]  # patches of the buckets that the step was compiled for, in order of compilation
    padding: float  # fraction of the patches in this process's steps that are padding


@dataclasses.dataclass
class Progress:
    """The changing state of a run."""

    state: TrainState
    done: int  # number of updates
    evaluations: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # step and main metrics of each


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is ready to train, created by `open_run`."""

    task: Task
    options: Options
    workdir: Path
    processes: Processes
    signals: Signals
    store: Checkpoints
    metrics: Metrics
    pictures: Pictures | None
    step: BucketedStep
    batches: Batches
    progress: Progress

    def take_step(self, batch: DeviceBatch) -> None:
        """Runs one training step."""
        progress = self.progress
        progress.state, report = self.step(progress.state, batch)
        progress.done = batch.step + 1
        self.metrics.step(batch, report, self.batches.waited)

    def is_save_due(self) -> bool:
        """Whether to write a checkpoint after this step."""
        done = self.progress.done
        at_end = done == self.task.steps
        return at_end or done % self.options.checkpoint.every_steps == 0 or self.is_evaluation_due()

    def is_evaluation_due(self) -> bool:
        """Whether an evaluation is due at this step and has not been done yet."""
        done = self.progress.done
        every = self.task.evaluation_interval
        if not every or not done:
            return False
        evaluated = any(evaluation["step"] == done for evaluation in self.progress.evaluations)
        return not evaluated and (done % every == 0 or done == self.task.steps)

    def is_patience_over(self) -> bool:
        """Whether the last `train.patience` evaluations are no better than the best earlier one.

        This depends only on recorded results, so a resumed run ends at the same step as an uninterrupted one.
        """
        patience = self.options.train.patience
        scores = [evaluation[self.task.headline[0]] for evaluation in self.progress.evaluations]
        scores = [score for score in scores if score >= 0]  # COCO reports -1 for an undefined metric
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def save(self) -> None:
        """Starts writing a checkpoint for the current step unless it is saved; `NotFinite` if the state is invalid."""
        progress = self.progress
        self.step.check(progress.state.params)
        if progress.done:
            meta = self.task.identity().meta(progress.done, evaluations=[*progress.evaluations])
            self.processes.agree(self.store.save, progress.done, progress.state, meta)

    def evaluate(self) -> None:
        """Evaluates the parameters if due, unless a signal arrives, and saves them if they are the best so far."""
        if not self.is_evaluation_due():
            return
        state = self.progress.state
        params = state.params if state.ema is None else state.ema
        with self.metrics.paused():
            result = self.task.evaluate(params, self.signals.vote)
        if result is not None:
            numbers = {name: result.metrics[name] for name in self.task.headline}
            self.progress.evaluations.append({"step": self.progress.done, **numbers})
            self.processes.on_primary(self._keep_evaluation, params, result, numbers)

    def _keep_evaluation(self, params: dict, result: Evaluated, numbers: dict[str, float]) -> None:
        """Records the newest evaluation, and saves the parameters if they are the best so far."""
        done, name = self.progress.done, self.task.headline[0]
        results = {"evaluations": [*self.progress.evaluations], name: numbers[name]} | self.task.remarks(result)
        best = self.store.save_if_best(done, params, self.task.identity().meta(done, **results), name)
        # Written last, because this line marks the step as evaluated.
        self.metrics.write(done, result.metrics, "val/", result.details)
        found = ", ".join(f"{name} {value:.4f}" for name, value in numbers.items() if value >= 0)
        unreadable = f"; {len(result.skipped)} unreadable images" if result.skipped else ""
        self.metrics.scored(numbers[name])
        self.metrics.say(f"step {done}: {found or 'nothing to score'}, {best}{unreadable}")
        self._draw(result)

    def _draw(self, result: Evaluated | None = None) -> None:
        if self.pictures is not None:
            with self.metrics.paused():
                self.pictures.draw(self.progress.done, result)

    def is_complete(self) -> bool:
        """Whether the run is complete."""
        at_end = self.progress.done == self.task.steps or self.is_patience_over()
        return at_end and not self.is_evaluation_due()

    def compare_average(self) -> None:
        """After a run with a moving average, evaluates the parameters without it; reports a large difference."""
        state = self.progress.state
        evaluations = self.progress.evaluations
        trained = self.metrics.whole["steps"] > 0
        if state.ema is None or not evaluations or not trained or not self.is_complete():
            return
        result = self.task.evaluate(state.params, self.signals.vote)
        if result is not None:
            self.processes.on_primary(self._keep_comparison, result.metrics)

    def _keep_comparison(self, numbers: dict[str, float]) -> None:
        """Records the metrics of the parameters without averaging."""
        name = self.task.headline[0]
        raw, averaged = numbers[name], self.progress.evaluations[-1][name]
        self.metrics.write(self.progress.done, {each: numbers[each] for each in self.task.headline}, "val_raw/")
        if abs(raw - averaged) > DISAGREEMENT * max(raw, averaged):
            self.metrics.say(
                f"note: the moving average of the parameters, which is evaluated and saved, has {name} {averaged:.4f}; "
                f"without averaging, it is {raw:.4f}. Train longer, or lower train.ema."
            )

    def outcome(self) -> Outcome:
        """How the run ended."""
        compiled = tuple(self.step.programs)
        return Outcome(self.workdir, self.progress.done, self.signals.number, compiled, self.metrics.padding)

    def saved(self) -> str:
        """A clause that states which step is saved, and where."""
        done = self.progress.done
        return f"step {done} is saved in {self.store.path}" if done else "there was nothing to save yet"

    def print_summary(self) -> None:
        """Prints a summary at the end of a run without errors."""
        self._draw()
        skipped = list(itertools.chain(*self.processes.allgather(self.batches.skipped)))
        for sentence in dict.fromkeys(skipped):
            print(f"skipped and replaced by another image: {sentence}")
        print(self.metrics.summary())
        compiled = counted(len(self.step.programs), "time")
        print(f"the step was compiled {compiled}; {counted(len(skipped), 'image')} skipped")
        folder, name = self.store.path, self.task.headline[0]
        best = best_so_far(folder, name)
        if best is not None:
            print(f"best {name} {best[1]:.4f} at step {best[0]}, in {folder / BEST}")
            meta = best_meta(folder)
            for line in [] if meta is None else self.task.advice(folder / BEST, meta):
                print(line)
        done = self.progress.done
        if self.signals and not self.is_complete():
            print(f"stopped by {self.signals.name} after step {done} of {self.task.steps}; {self.saved()}")
            print("run the same command to continue")
        else:
            if self.is_patience_over():
                print(f"stopped after {counted(self.options.train.patience, 'evaluation')} without a better {name}")
            print(f"saved the checkpoint for step {done} to {folder}; the run is complete")


@contextlib.contextmanager
def open_run(
    make_task: MakeTask, workdir: Path, options: Options, devices: Sequence[jax.Device] | None
) -> Iterator[Run]:
    """Prepares a run: locks its folder, opens its files, and starts loading data."""
    processes, mesh = Processes(), data_mesh(devices)
    if processes.count > 1 and devices is not None:
        raise InputError("with several processes, training uses all devices; omit `devices`.")
    with Signals() as signals, processes.only_primary_prints():
        with contextlib.ExitStack() as files:
            processes.on_primary(lambda: files.enter_context(only_run_in(make_folder(workdir))))
            task = processes.agree(make_task, mesh)
            task.check_alike()
            state, done = begin(workdir, task, options, processes)
            print(*task.describe(), sep="\n")
            progress = Progress(place(state, replicated(mesh)), done)

            def build() -> Run:
                """Opens the files and the data loader; `files` closes them."""
                opened = files.enter_context
                store = opened(Checkpoints(workdir, options.checkpoint.keep, processes.is_primary))
                metrics = opened(Metrics(workdir, task, options.train.log_every, done, processes))
                draws = options.train.curves and processes.is_primary
                pictures = task.pictures(workdir, metrics.say) if draws else None
                step = BucketedStep(step_of(task, options.train, mesh), task, processes, metrics.say, metrics.doing)
                files.callback(step.close)
                loaded = task.batches(done, Share(processes.index, processes.count))
                batches = opened(Batches(loaded, split_over(mesh), processes, signals, options.skip_unreadable))
                return Run(
                    task, options, workdir, processes, signals, store, metrics, pictures, step, batches, progress
                )

            run = processes.agree(build)
            progress.evaluations.extend(processes.allgather(run.metrics.evaluations(task.headline))[0])
            run.metrics.scores.extend(evaluation[task.headline[0]] for evaluation in progress.evaluations)
            yield run
            processes.agree(run.store.wait)
        run.print_summary()


def step_of(task: Task, train: RunSettings, mesh: jax.sharding.Mesh) -> Any:
    """The jitted step of a task, see `make_step`."""
    gradient = make_gradient(task.loss, task.divisors, mesh, train.accumulate, make_hold(task.rates))
    return make_step(gradient, task.optimizer, mesh, make_average(train.ema, task.rates))
