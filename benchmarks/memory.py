"""Measures the peak memory of one implementation for one case, and prints JSON for `benchmarks.timing.memory_of`.

python -m benchmarks.memory '{"case": ["s", 800, 1056, 1, "float32"], "work": "step", "side": "ours"}'

`side` is `ours` (yolos-jax) or, for transformers, one of `peers.KINDS`: `sdpa`, `eager` or `compile`. The peak is that
of the whole process, which includes imports, weights and three runs.
"""

import json
import sys
from typing import Any

from benchmarks.cases import Case, inputs_of, params_of
from benchmarks.timing import host_peak


def main() -> None:
    values = json.loads(sys.argv[1])
    case = Case(*values["case"])
    print(json.dumps(measured(case, values["work"], values["side"])))


def measured(case: Case, work: str, side: str) -> dict[str, int]:
    """Peak memory in bytes after three runs."""
    inputs, params = inputs_of(case), params_of(case)
    run: Any
    if side == "ours":
        import jax

        from benchmarks.ours import Ours

        device = jax.devices()[0]
        run = Ours(case, params, inputs, device).work(work).run
    else:
        import torch

        from benchmarks.peers import Peer

        name = "cuda" if torch.cuda.is_available() else "cpu"
        run = Peer(case, params, inputs, name, side).work(work).run
    for _ in range(3):
        run()
    out = {"host": host_peak()}
    if side == "ours" and device.platform != "cpu":
        out["device"] = int(device.memory_stats()["peak_bytes_in_use"])
    elif side != "ours" and name == "cuda":
        out["device"] = int(torch.cuda.max_memory_allocated())
    return out


if __name__ == "__main__":
    main()
