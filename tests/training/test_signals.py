"""Complete programs: signals, dead data workers, and a second run in the same folder."""

import os
import shutil
import signal
import sys
import time

import jax
import psutil
import pytest
from compiled_once import compiled_once
from micro_run import assert_equal_trees, lines, micro_config, micro_data
from training_process import Training, Trainings, flags, recipe, steps_logged

from yolos_jax.evaluation.evaluator import Evaluator
from yolos_jax.tasks import recipe as recipe_of_a_task
from yolos_jax.tasks.detection import train
from yolos_jax.tasks.pictures.curves import Curves
from yolos_jax.training import checkpoint_files
from yolos_jax.training.compiled_step import BucketedStep
from yolos_jax.training.saving import Checkpoints
from yolos_jax.weights import checkpoints

PHASES = {  # for each phase of a run: the function that Ctrl-C interrupts, and the steps that are saved
    "annotations": (recipe_of_a_task, "source_of", []),
    "compiling": (BucketedStep, "_compile", [1]),
    "evaluation": (Evaluator, "until_cancelled", [2]),
    "saving": (Checkpoints, "save", [2]),
    "saving the best": (Checkpoints, "save_best", [2]),
    "drawing": (Curves, "draw", [2]),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


LONG = {"train.epochs": 5000, "checkpoint.every_steps": 10**6}


def workers_of(run, count):
    """Waits until a run has `count` data workers, and returns them."""

    def there():
        children = psutil.Process(run.process.pid).children()
        return [p for p in children if "spawn_main" in " ".join(p.cmdline())]

    run.wait_for(lambda: len(there()) >= count)
    return there()


def stops_and_saves(runs, run, workdir, number, code):
    runs.wait_for(lambda: steps_logged(workdir) > 5)
    runs.process.send_signal(number)
    assert runs.ended(run) == code, runs.text()
    (step,) = checkpoint_files.steps(workdir)
    assert f"stopped by {number.name} after step {step} of 10000; step {step} is saved in {workdir}" in runs.text()
    assert lines(workdir)[-1]["step"] == step == steps_logged(workdir)


def a_dead_worker_is_reported_and_the_work_saved(runs, run, workdir):
    runs.wait_for(lambda: steps_logged(workdir) > 5)
    workers = workers_of(runs, 2)
    workers[-1].kill()
    assert runs.ended(run, 60) == 2, runs.text()
    (step,) = checkpoint_files.steps(workdir)
    (sentence,) = [line for line in runs.text().splitlines() if line.startswith("error: ")]
    assert f"process {workers[-1].pid} ended with code -9" in sentence and f"step {step} is saved" in sentence
    psutil.wait_procs(workers, timeout=10)
    assert not any(p.is_running() for p in workers)


def test_signals_and_dead_workers(data, tmp_path, call):
    """A signal, with or without data workers; the death of a worker; and a second Ctrl-C, which stops a run at once.

    All runs share one process. While they are running, another run in the first one's folder is rejected.
    """
    first, second, third, last = (tmp_path / name for name in ("term", "int", "dead", "twice"))
    two = LONG | {"data.workers": 2}
    with Trainings(
        flags(data, first, two),
        flags(data, second, LONG),
        flags(data, third, two),
        flags(data, last, LONG | {"checkpoint.every_steps": 7}),
    ) as runs:
        runs.wait_for(lambda: steps_logged(first) > 5)
        other = call("train.py", *flags(data, first, LONG))
        assert other.returncode == 2 and "another process is training in" in other.stderr
        stops_and_saves(runs, 0, first, signal.SIGTERM, 143)
        stops_and_saves(runs, 1, second, signal.SIGINT, 130)
        a_dead_worker_is_reported_and_the_work_saved(runs, 2, third)
        runs.wait_for(lambda: steps_logged(last) > 20)
        runs.process.send_signal(signal.SIGINT)
        runs.process.send_signal(signal.SIGINT)
        assert runs.end() == 130
    assert "Traceback" not in runs.text()
    saved = f"saved in {last}" in runs.text()  # the second signal came too late, or both were merged
    assert saved or all(step % 7 == 0 for step in checkpoint_files.steps(last))


def test_signals_during_an_evaluation(data, tmp_path, capsys):
    """The checkpoint already exists, and the resumed run starts the evaluation again.

    The first signal is sent to the process. The second is sent to its whole group, as a scheduler would do, so it
    also reaches the data worker that the evaluation waits for.
    """
    slow = {"train.epochs": 1, "eval.every_epochs": 1, "eval.batch_size": 1, "data.val_split": "train2017"}
    for _ in range(3):  # on a busy disk, the evaluation may end before the checkpoint is complete
        shutil.rmtree(tmp_path)
        with Training(data, tmp_path, **slow) as run:
            run.wait_for(lambda: checkpoint_files.steps(tmp_path))
            run.process.send_signal(signal.SIGTERM)
            assert run.end() == 143, run.text()
        if "AP" not in "".join(run.said):
            break
    assert checkpoint_files.steps(tmp_path) == [2] and "Traceback" not in run.text() and "AP" not in "".join(run.said)
    with Training(data, tmp_path, **slow, **{"data.workers": 1}) as run:
        workers_of(run, 1)  # the run is complete except for its evaluation
        time.sleep(1.0)
        os.killpg(run.process.pid, signal.SIGTERM)
        assert run.end() == 143, run.text()
    assert "Traceback" not in run.text() and checkpoint_files.steps(tmp_path) == [2]
    assert "AP" not in "".join(run.said)
    outcome = train(recipe(data, slow), tmp_path, devices=jax.devices()[:1])
    said = "".join(capsys.readouterr())  # the progress bar is printed to stderr
    assert outcome.step == 2 and outcome.signal == 0 and "the checkpoint for step 2" in said
    assert "step 2: AP" in said and checkpoint_files.steps(tmp_path / "best") == [2]


def test_ctrl_c_in_every_phase(data, tmp_path, capsys):
    """The run stops with a message, and the same command completes it with the result of an uninterrupted run."""
    changes = {"train.max_steps": 4, "eval.every_epochs": 1, "checkpoint.every_steps": 9}
    config, drawn = (micro_config(data, **changes, **{"train.curves": curves}) for curves in (False, True))
    one = jax.devices()[:1]
    with compiled_once():
        train(config, tmp_path / "whole", devices=one)
        wanted = checkpoints.load_any(tmp_path / "whole")[0]
        for phase, (owner, name, saved) in PHASES.items():
            work, run = getattr(owner, name), tmp_path / phase

            def interrupted(*args, work=work, sent=[], **how):  # noqa: B006  # interrupts only the first call
                if not sent:
                    sent.append(os.kill(os.getpid(), signal.SIGINT))
                return work(*args, **how)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(owner, name, interrupted)
                outcome = train(drawn if phase == "drawing" else config, run, devices=one)
            assert outcome.signal == signal.SIGINT and checkpoint_files.steps(run) == saved, phase
            done = saved[-1] if saved else 0
            assert f"stopped by SIGINT after step {done} of 4" in capsys.readouterr().out, phase
            if phase in ("evaluation", "saving the best"):
                train(config, run, devices=one)
                assert_equal_trees(checkpoints.load_any(run)[0], wanted)
                assert [line["step"] for line in lines(run)] == [line["step"] for line in lines(tmp_path / "whole")]


def test_ctrl_c_before_a_program_starts_prints_no_traceback(capsys):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == "interrupted\n"
