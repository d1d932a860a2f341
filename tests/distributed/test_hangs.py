"""The error message names a process that stopped responding, but not one that is only slow."""

import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from cpu_devices import of_training
from reference_pack import ROOT

from yolos_jax.distributed import launch, witness

HEARTBEAT = 6  # timeout in seconds, shorter than in `launch.TIMEOUTS`
PROGRAM = f"""
import ctypes, sys, time
from yolos_jax.distributed import launch, witness
from yolos_jax.distributed.processes import Processes
from yolos_jax.errors import clear_errors

launch.TIMEOUTS["heartbeat_timeout_seconds"] = {HEARTBEAT}
witness.SIGN, witness.SILENCE = 0.3, 1.5
launch.join(sys.argv[1], 2, int(sys.argv[2]))
processes = Processes()
if processes.is_primary and sys.argv[3] == "1":
    ctypes.PyDLL(None).sleep({HEARTBEAT + 4})  # simulates a library call that holds the GIL
time.sleep(2)  # until each has received a heartbeat from the other
with clear_errors():
    processes.allgather("slow")
    print("slow", flush=True)
    while True:
        processes.allgather("alive")
        time.sleep(0.02)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("stopped", [1, 0])
def test_reports_a_process_that_stops_responding(stopped):
    timeout = launch.TIMEOUTS["heartbeat_timeout_seconds"]
    assert witness.SIGN + witness.SILENCE < timeout / 2 < 50  # so that the run reports the cause and ends within 100 s
    command = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{free_port()}"]
    how = {"cwd": ROOT, "env": of_training(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(i), str(stopped)], **how) for i in range(2)]
    try:
        for process in processes:
            assert "slow\n" in iter(process.stdout.readline, "")  # skip the lines that gloo prints
        processes[stopped].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        _, said = processes[1 - stopped].communicate(timeout=100)
        assert time.monotonic() - start < 4 * HEARTBEAT + 20
        assert processes[1 - stopped].returncode != 0
        first, *_ = said.splitlines()
        off = "use --distributed=off to run a single process"
        assert re.fullmatch(rf"waiting up to 300 s for all 2 processes .*; {off}", first)
        host = re.escape(socket.gethostname())
        found = rf"^error: .*: process {stopped} on host {host} has not answered for \d+ s \(see .*Run the same command"
        assert re.search(found, said, re.M), said
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_prints_which_processes_it_waits_for(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    ends = "; use --distributed=off to run a single process"
    assert launch._waiting("Slurm", "", 0) == f"waiting up to 300 s for all 2 processes started by Slurm{ends}"
    assert launch._waiting("", "a:1", 3) == f"waiting up to 300 s for all 3 processes (process 0 is at a:1){ends}"
    tpu = launch._waiting("the TPU runtime", "", 0)
    assert tpu == f"waiting up to 300 s for all processes started by the TPU runtime{ends}"
