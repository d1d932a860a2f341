"""Measures the peak memory of a process."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def host_peak() -> int:
    """Peak memory of this process in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # more accurate: in a child process, getrusage starts at the parent's peak
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_of(case: Sequence[Any], work: str, side: str) -> dict[str, int]:
    """Peak memory in bytes from `benchmarks.memory` in a separate process: "host" and, on an accelerator, "device"."""
    values = json.dumps({"case": list(case), "work": work, "side": side})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", values], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        print(f"failed to measure the memory of {side}: {last[:200]}", file=sys.stderr)
        return {}
    return json.loads(done.stdout.splitlines()[-1])
