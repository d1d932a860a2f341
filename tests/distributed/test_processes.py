"""Several processes of one run: the same numbers as one, one end for all, and a sentence when one is gone."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from cpu_devices import cpu_devices
from micro_run import lines, micro_config, micro_data, without_key_biases
from reference_pack import ROOT

from yolos_jax import checkpoints
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import InputError
from yolos_jax.tasks.detection import train

pytestmark = pytest.mark.slow
LIMIT = 150  # seconds that any of this may take on a busy machine
EVALUATED = {"eval.every_epochs": 2}
LONG = {"train.epochs": 400, "checkpoint.every_steps": 5}


LAUNCHERS = {  # what they put into the environment of process i
    "": {},
    "Slurm": {
        **{"SLURM_JOB_ID": "7{port}", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"},
        **{"SLURM_PROCID": "{i}", "SLURM_LOCALID": "{i}", "SLURM_STEP_TASKS_PER_NODE": "2"},
    },
    "Open MPI": {
        **{"OMPI_MCA_orte_hnp_uri": "{job}.0;tcp://127.0.0.1:9", "OMPI_COMM_WORLD_SIZE": "2"},
        **{"OMPI_COMM_WORLD_RANK": "{i}", "OMPI_COMM_WORLD_LOCAL_RANK": "{i}"},
    },
}


class Pair:
    """train.py or eval.py in two processes of two devices each, from the same recipe unless `second` changes it."""

    def __init__(
        self, folder, data, workdir, second=(), program="train.py", flags=(), launcher="", inject="", **changes
    ):
        config = folder / f"{len(list(folder.iterdir()))}.py"
        config.write_text(
            f"import sys\nfrom pathlib import Path\nfrom micro_run import micro_config\n{inject}\n\n\n"
            f"def get_config():\n    return micro_config(Path({str(data)!r}), **{changes!r})\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            self.coordinator = f"127.0.0.1:{port}"
        place = f"--workdir={workdir}" if program == "train.py" else f"--checkpoint={workdir}"
        environment = cpu_devices(2) | {"PYTHONPATH": str(ROOT / "tests")}
        self.said, self.processes = [folder / f"{config.stem}-{i}.txt" for i in range(2)], []
        for i, output in enumerate(self.said):
            command = [sys.executable, program, f"--config={config}", place, *flags, *(second if i else ())]
            if not launcher:
                command += [f"--coordinator={self.coordinator}", "--processes=2", f"--process={i}"]
            environment |= {
                name: value.format(i=i, port=port, job=port * 4096) for name, value in LAUNCHERS[launcher].items()
            }
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def ends(self, limit: float = LIMIT) -> list[int]:
        """Exit codes, once both have ended."""
        end = time.monotonic() + limit
        return [process.wait(max(1, end - time.monotonic())) for process in self.processes]

    def steps(self, workdir, least: int) -> None:
        """Waits until so many steps are done."""
        end = time.monotonic() + LIMIT
        while not (workdir / "metrics.jsonl").exists() or len(lines(workdir)) < least:
            assert time.monotonic() < end and all(p.poll() is None for p in self.processes), self.text(0) + self.text(1)
            time.sleep(0.1)

    def text(self, i: int) -> str:
        return self.said[i].read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return micro_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What one process on four devices makes of it."""
    workdir = tmp_path_factory.mktemp("whole")
    train(micro_config(data, **EVALUATED), workdir, devices=jax.devices()[:4])
    return workdir


def params_of(workdir):
    params, meta = checkpoints.load(workdir)
    return without_key_biases(params), meta


def same_params(workdir, other):
    (mine, meta), (theirs, wanted) = params_of(workdir), params_of(other)
    assert meta.step == wanted.step
    off = np.concatenate([np.abs(x - y).ravel() for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs))])
    assert (off <= 1e-5).mean() >= 0.999 and off.max() <= 5e-4  # the bounds for parameters after steps


def test_two_processes_train_and_evaluate_as_one_does(folder, data, whole, tmp_path):
    """Ten images in batches of eight: the second batch is all in the first process's share."""
    with Pair(folder, data, tmp_path / "run", **EVALUATED) as pair:
        assert pair.ends() == [0, 0], pair.text(0) + pair.text(1)
    same_params(tmp_path / "run", whole)
    assert "4 device(s) in 2 processes" in pair.text(0)
    assert "4 device(s)" not in pair.text(1)  # only one of them speaks
    for mine, theirs in zip(lines(tmp_path / "run"), lines(whole), strict=True):
        for key in ("step", "total", "grad_norm", "val/AP", "val/AR100"):
            assert mine.get(key) == pytest.approx(theirs.get(key), abs=1e-5), key
    folders = [f"--out={tmp_path / name}" for name in ("two", "one")]
    with Pair(folder, data, tmp_path / "run", program="eval.py", flags=folders[:1], **EVALUATED) as pair:
        assert pair.ends() == [0, 0], pair.text(0) + pair.text(1)
    recipe = f"--config={pair.said[0].parent / pair.said[0].stem.removesuffix('-0')}.py"
    command = [sys.executable, "eval.py", recipe, f"--checkpoint={tmp_path / 'run'}", folders[1]]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=LIMIT)
    two, one = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("two", "one"))
    assert len(two) == len(one) == 10 * 6 and {r["image_id"] for r in two} == set(range(1, 11))
    for mine, theirs in zip(*(sorted(r, key=lambda e: (e["image_id"], -e["score"])) for r in (two, one))):
        assert (mine["image_id"], mine["category_id"]) == (theirs["image_id"], theirs["category_id"])
        np.testing.assert_allclose([*mine["bbox"], mine["score"]], [*theirs["bbox"], theirs["score"]], atol=1e-3)


def test_another_number_of_processes_goes_on(folder, data, whole, tmp_path):
    train(micro_config(data, **EVALUATED, **{"train.max_steps": 2}), tmp_path / "run", devices=jax.devices()[:1])
    with Pair(folder, data, tmp_path / "run", **EVALUATED) as pair:
        assert pair.ends() == [0, 0], pair.text(0) + pair.text(1)
    assert "going on from the checkpoint of step 2" in pair.text(0)
    same_params(tmp_path / "run", whole)


def test_a_signal_to_one_stops_both_at_the_same_step_and_one_process_goes_on(folder, data, tmp_path):
    run = tmp_path / "run"
    with Pair(folder, data, run, **LONG) as pair:
        pair.steps(run, 3)
        pair.processes[1].send_signal(signal.SIGTERM)
        assert pair.ends() == [143, 143], pair.text(0) + pair.text(1)
    step = max(checkpoints.steps(run))
    assert f"stopped by SIGTERM after step {step} of 800; step {step} is saved" in pair.text(0)
    assert len(lines(run)) == step
    more = LONG | {"train.max_steps": step + 2}
    train(micro_config(data, **more), run, devices=jax.devices()[:1])
    train(micro_config(data, **more), tmp_path / "whole", devices=jax.devices()[:1])
    same_params(run, tmp_path / "whole")


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends_with_a_sentence(folder, data, tmp_path, killed):
    with Pair(folder, data, tmp_path, **LONG) as pair:
        pair.steps(tmp_path, 2)
        pair.processes[killed].kill()
        start = time.monotonic()
        codes = pair.ends()
        assert time.monotonic() - start < 60
    time.sleep(0.5)  # the sentence of a process that was aborted comes from its witness
    assert re.search(r"^error: .*another process of this run has died", pair.text(1 - killed), re.M)
    assert codes[1 - killed] not in (0, -signal.SIGKILL)
    assert max(checkpoints.steps(tmp_path), default=0) % 5 == 0  # nothing half-done was saved


def test_what_one_cannot_do_none_does(folder, data, tmp_path):
    """An image that only one host has damaged; numbers that are no longer finite."""
    broken = tmp_path / "broken"
    shutil.copytree(data, broken)
    for image in (broken / "train2017").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    with Pair(folder, data, tmp_path / "a", second=[f"--config.data.root={broken}"], **LONG) as pair:
        assert pair.ends() == [2, 2], pair.text(0) + pair.text(1)
    reason = rf"10 images in a row cannot be read, the last one: the image {broken}\S* cannot be read"
    assert re.search(f"^error: {reason}", pair.text(1), re.M)
    assert re.search(f"^error: process 1 of 2 stopped: {reason}", pair.text(0), re.M)
    with Pair(folder, data, tmp_path / "c", **LONG, **{"optimizer.learning_rate": 1e38}) as pair:
        assert pair.ends() == [2, 2], pair.text(0) + pair.text(1)
    said = [re.search(r"error: (step \d+: the .*)", pair.text(i))[1] for i in range(2)]
    assert said[0] == said[1] and "not finite" in said[0]


FULL = """
from yolos_jax.errors import InputError
from yolos_jax.training import metrics

if "--process=0" in sys.argv:  # only this one writes
    written = metrics.Metrics.write

    def write(self, step, values, prefix=""):
        if step == 3:
            raise InputError("metrics.jsonl could not be written (No space left on device); make room there.")
        written(self, step, values, prefix)

    metrics.Metrics.write = write
"""
NO_SHARED_MEMORY = """
from yolos_jax.errors import InputError
from yolos_jax.tasks import detection

if "--process=1" in sys.argv:

    def load(*_):
        raise InputError("/dev/shm has 0.0 MiB left; enlarge it.")

    detection.load = load
"""


@pytest.mark.parametrize(
    ("inject", "who", "sentence", "saved"),
    [(FULL, 0, "metrics.jsonl could not be written", "step 3 is saved"), (NO_SHARED_MEMORY, 1, "/dev/shm has", "")],
)
def test_trouble_of_one_process_ends_all(folder, data, tmp_path, inject, who, sentence, saved):
    with Pair(folder, data, tmp_path, inject=inject, **LONG) as pair:
        assert pair.ends() == [2, 2], pair.text(0) + pair.text(1)
    assert f"error: {sentence}" in pair.text(who)
    assert f"error: process {who} of 2 stopped: {sentence}" in pair.text(1 - who)
    assert saved in pair.text(who)


@pytest.mark.parametrize("launcher", ["Slurm", "Open MPI"])
def test_launched_processes_find_each_other_and_must_be_started_alike(folder, data, tmp_path, launcher):
    with Pair(folder, data, tmp_path / "b", second=["--config.seed=1"], launcher=launcher) as pair:
        assert pair.ends() == [2, 2], pair.text(0) + pair.text(1)
    for i in range(2):
        assert "error: process 1 was started with something else than process 0: seed 1 against 0." in pair.text(i)


def test_alone_nothing_is_exchanged():
    alone = Processes()
    assert alone.is_primary and alone.count == 1
    assert alone.allgather({"a": 1}) == [{"a": 1}]
    assert alone.agree_and_vote(lambda: 5, lambda: 3) == (5, 3)
    assert alone.agree(divmod, 7, 2) == alone.on_primary(divmod, 7, 2) == (3, 1)
    tree = {"x": np.float32([-0.0, np.nan])}
    assert alone.broadcast(tree, tree)["x"].tobytes() == tree["x"].tobytes()
    with pytest.raises(InputError, match="mine"):
        alone.agree(lambda: (_ for _ in ()).throw(InputError("mine")))
