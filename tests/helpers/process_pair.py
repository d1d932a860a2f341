"""Runs programs in two processes with two devices each, as if started by a user or a launcher."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from cpu_devices import of_training
from micro_run import lines
from reference_pack import ROOT
from several_programs import END

LIMIT = 150  # seconds that a program may take on a busy machine
LAUNCHERS = {  # environment variables that a launcher sets in process i
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


class Program(NamedTuple):
    """A program that both processes run, with the same recipe unless `second` changes it."""

    name: str  # such as train.py
    data: Path
    folder: Path  # --workdir, or --checkpoint for eval.py
    changes: dict  # changes to the recipe, by dotted key
    flags: tuple[str, ...] = ()
    second: tuple[str, ...] = ()  # flags for process 1 only
    inject: str = ""  # Python code at the start of the recipe file
    make: str = "micro_run.micro_config"  # function that creates the recipe

    def command(self, recipe: Path) -> list[str]:
        """Writes the recipe file and returns the command line, without `second`."""
        module, _, function = self.make.rpartition(".")
        recipe.write_text(
            f"from pathlib import Path\nfrom {module} import {function}\n{self.inject}\n\n\n"
            f"def get_config():\n    return {function}(Path({str(self.data)!r}), **{self.changes!r})\n"
        )
        place = "checkpoint" if self.name == "eval.py" else "workdir"
        return [self.name, f"--config={recipe}", f"--{place}={self.folder}", *self.flags]


class Pair:
    """Two processes that run the same programs one after another, without exiting in between."""

    def __init__(self, folder: Path, *programs: Program, launcher: str = ""):
        start, self.count = len(list(folder.iterdir())), len(programs)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.said, self.processes = [folder / f"{start}-{i}.txt" for i in range(2)], []
        commands = [program.command(folder / f"{start}-{k}.py") for k, program in enumerate(programs)]
        for i, output in enumerate(self.said):
            mine = [command + list(p.second if i else ()) for command, p in zip(commands, programs)]
            if not launcher:
                mine[0] += [f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"]
            for later in mine[1:]:
                later.append("--distributed=off")  # the processes are already connected
            named = [[f"{p.make} {p.changes}", *words] for words, p in zip(mine, programs)]
            command = (
                mine[0] if len(mine) == 1 else [ROOT / "tests" / "helpers" / "several_programs.py", json.dumps(named)]
            )
            environment = of_training(2, ROOT / "tests" / "helpers")
            for name, value in LAUNCHERS[launcher].items():
                environment[name] = value.format(i=i, port=port, job=port * 4096)
            with output.open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def ends(self) -> list[int]:
        """Waits for both processes and returns their exit codes."""
        end = time.monotonic() + LIMIT * self.count
        return [process.wait(max(1, end - time.monotonic())) for process in self.processes]

    def steps(self, workdir: Path, least: int) -> None:
        """Waits until at least `least` steps are logged."""
        end = time.monotonic() + LIMIT
        while not (workdir / "metrics.jsonl").exists() or len(lines(workdir)) < least:
            assert time.monotonic() < end and all(p.poll() is None for p in self.processes), self.text(0) + self.text(1)
            time.sleep(0.1)

    def text(self, i: int) -> str:
        """The output of process i."""
        return self.said[i].read_text()

    def parts(self, i: int) -> list[tuple[int, str]]:
        """(exit code, output) of each program in process i."""
        text, *more = re.split(rf"^{END} (\d+)$", self.text(i), flags=re.M)
        return [(int(code), said) for code, said in zip(more[::2], [text, *more[1::2]])]
