"""train.py and pretrain.py in a process of their own, as a user starts them."""

import json
import subprocess
import sys
import threading
import time

from cpu_devices import cpu_devices
from micro_run import lines
from reference_pack import ROOT

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


class Training:
    """A training program in a process of its own; `wait_for` reads what it says."""

    def __init__(self, root, workdir, devices=1, program="train.py", **changes):
        recipe, micro = RECIPES[program]
        settings = micro | {"data.root": root} | changes
        command = [sys.executable, program, f"--config=configs/{recipe}.py", f"--workdir={workdir}"]
        command += [f"--config.{key}={value}" for key, value in settings.items()]
        environment = cpu_devices(devices) | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said, self.errors = [], []
        self.threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stdout, self.said), (self.process.stderr, self.errors))
        ]
        for thread in self.threads:
            thread.start()

    def _read(self, stream, into):
        for line in stream:
            into.append(line)

    def wait_for(self, condition, seconds=120):
        """Until `condition()` or the end of the process; fails after so many seconds."""
        end = time.monotonic() + seconds
        while not condition() and self.process.poll() is None:
            assert time.monotonic() < end, self.text()
            time.sleep(0.01)

    def end(self, seconds=120):
        """The exit code; everything said is then in `said` and `errors`."""
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
        self.process.stdout.close()
        self.process.stderr.close()


def steps_logged(workdir):
    try:
        return len(lines(workdir))
    except (OSError, json.JSONDecodeError):
        return 0
