"""Peak memory of one side of one case, for `benchmarks.timing.memory_of`; prints JSON.

python -m benchmarks.memory '{"case": ["s", 800, 1056, 1, "float32"], "work": "step", "side": "ours"}'

The side is `ours`, `sdpa`, `eager` or `compile`. It measures a whole process: imports, weights and three runs.
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
    """Peaks in bytes after three runs."""
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
