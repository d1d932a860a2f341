"""A process that stops responding is named by the others; a slow one is not."""

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

HEARTBEAT = 6  # seconds; those of a run are in `launch.TIMEOUTS`
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
    ctypes.PyDLL(None).sleep({HEARTBEAT + 4})  # like a library that holds the GIL
time.sleep(2)  # until each has received the other's heartbeat
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
def test_a_process_that_stops_responding_is_named(stopped):
    timeout = launch.TIMEOUTS["heartbeat_timeout_seconds"]
    assert witness.SIGN + witness.SILENCE < timeout / 2 < 50  # so that a run ends within 100 s and knows the cause
    command = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{free_port()}"]
    how = {"cwd": ROOT, "env": of_training(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, str(i), str(stopped)], **how) for i in range(2)]
    try:
        for process in processes:
            assert "slow\n" in iter(process.stdout.readline, "")  # gloo prints its own lines
        processes[stopped].send_signal(signal.SIGSTOP)
        start = time.monotonic()
        _, said = processes[1 - stopped].communicate(timeout=100)
        assert time.monotonic() - start < 4 * HEARTBEAT + 20
        assert processes[1 - stopped].returncode != 0
        first, *_ = said.splitlines()
        assert re.fullmatch(r"waiting up to 300 s for all 2 processes .*; --distributed=off runs this one alone", first)
        host = re.escape(socket.gethostname())
        found = rf"^error: .*: process {stopped} of host {host} has not answered for \d+ s \(see .*Run the same command"
        assert re.search(found, said, re.M), said
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_a_process_reports_at_once_what_it_waits_for(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    ends = "; --distributed=off runs this one alone"
    assert launch._waiting("Slurm", "", 0) == f"waiting up to 300 s for all 2 processes that Slurm starts{ends}"
    assert launch._waiting("", "a:1", 3) == f"waiting up to 300 s for all 3 processes (process 0 is at a:1){ends}"
    assert launch._waiting("TPU", "", 0) == f"waiting up to 300 s for all processes that TPU starts{ends}"
