"""Runs train.py and pretrain.py in a separate process, as a user would."""

import json
import re
import subprocess
import sys
import threading
import time

from cpu_devices import of_training
from micro_run import lines
from reference_pack import ROOT
from several_programs import END

from yolos_jax.config.reader import assign
from yolos_jax.programs.command_line import load_recipe

MICRO = {
    "init": "from_nothing", "matcher": "device",
    "model.width": 12, "model.depth": 2, "model.heads": 2, "model.det_tokens": 6, "model.init_pe_size": "(64, 64)",
    "data.short_side": 48, "data.scales": "(32, 48)", "data.crop_sides": "(48, 64)", "data.crop_range": "(32, 64)",
    "data.buckets": 1, "data.workers": 0, "train.batch_size": 4, "train.images_per_replica": 1,
    "eval.every_epochs": 0, "checkpoint.every_steps": 5, "train.log_every": 1, "train.curves": False,
}  # fmt: skip
MICRO_CLASSIFIER = {
    "init": "from_nothing", "model.width": 12, "model.depth": 2, "model.heads": 2, "model.image_size": 32,
    "data.workers": 0, "train.batch_size": 8, "train.log_every": 1, "train.curves": False, "eval.every_epochs": 0,
    "checkpoint.every_steps": 5, "optimizer.rate_batch": 0,
}  # fmt: skip
RECIPES = {"train.py": ("yolos_ti", MICRO), "pretrain.py": ("deit_ti", MICRO_CLASSIFIER)}


def flags(root, workdir, changes, program="train.py"):
    """The command-line flags of a program, for a micro model."""
    name, micro = RECIPES[program]
    changed = [f"--config.{key}={value}" for key, value in (micro | {"data.root": root} | changes).items()]
    return [f"--config=configs/{name}.py", f"--workdir={workdir}", *changed]


def recipe(root, changes):
    """The recipe that train.py builds from these changes."""
    config = load_recipe("yolos_ti")
    for key, value in (MICRO | {"data.root": root} | changes).items():
        assign(config, key, str(value))
    return config


class Training:
    """A training program in a separate process. Threads collect its output in `said` and `errors`."""

    def __init__(self, root, workdir, devices=1, program="train.py", **changes):
        self.start([program, *flags(root, workdir, changes, program)], devices)

    def start(self, command, devices=1, stderr=subprocess.PIPE):
        """Starts a Python program with `devices` devices."""
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=of_training(devices) | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )
        self.said, self.errors = [], []
        self.threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.said), (self.process.stderr, self.errors))
            if pair[0]
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, stream, into):
        for line in stream:
            into.append(line)

    def wait_for(self, condition, seconds=300):
        """Waits until `condition()` is true or the process has ended; fails after `seconds`."""
        end = time.monotonic() + seconds
        while not condition() and self.process.poll() is None:
            assert time.monotonic() < end, self.text()
            time.sleep(0.01)

    def end(self, seconds=120):
        """Waits for the process and returns its exit code; the complete output is then in `said` and `errors`."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for thread in self.threads:
            thread.join(10)
        return code

    def text(self):
        return "".join(self.said) + "".join(self.errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.end()
        for stream in (self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


class Trainings(Training):
    """Runs train.py several times, one run after another in one process; `runs` are the command lines.

    The runs must have the same recipe, except for settings that do not affect compiled programs.
    """

    def __init__(self, *runs):
        self.start(
            [
                ROOT / "tests" / "helpers" / "several_programs.py",
                json.dumps([["one", "train.py", *run] for run in runs]),
            ],
            stderr=subprocess.STDOUT,  # so that the errors of a run precede the line that reports its end
        )

    def ended(self, run, seconds=300):
        """Waits until the run with index `run`, counted from 0, has ended, and returns its exit code."""

        def codes():
            return re.findall(rf"^{END} (\d+)$", "".join(self.said), re.M)

        self.wait_for(lambda: len(codes()) > run, seconds)
        return int(codes()[run])


def steps_logged(workdir):
    try:
        return len(lines(workdir))
    except (OSError, json.JSONDecodeError):
        return 0
