"""Compares the speed of the yolos-jax and transformers models: forward, forward + backward, and training step.

python -m benchmarks.model --variants s --sizes 512x672 800x1056 --batches 1 2 --out model.json
python -m benchmarks.model --workloads forward --dtypes float32 bfloat16 --against sdpa eager compile
python -m benchmarks.model --workloads --sizes-of data/coco/annotations/instances_val2017.json   # multiply-adds only

It prints a markdown table and writes JSON. The programs are the same as in training and in `Detector`; for each one, it
prints the precision, the attention and the library calls. Before measuring, it compares the outputs of yolos-jax on
this device with those on the CPU, and with those of transformers on the CPU for the same weights. Measurements of the
two libraries alternate; a ratio is the median over pairs of the speed of yolos-jax divided by that of transformers.
Memory is the peak of a separate process.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import jax

from benchmarks import peers
from benchmarks.cases import WORKLOADS, Case, add_case_flags, cases_of, inputs_of, params_of
from benchmarks.check import agree
from benchmarks.common import positive
from benchmarks.measuring import Peak, alone, device_peak, in_pairs, machine
from benchmarks.ours import Ours
from benchmarks.tables import model_rows
from benchmarks.timing import memory_of
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.tools.analysis.costs import cost_table, first_sizes, published_rows
from yolos_jax.tools.analysis.multiply_adds import multiply_adds, parameter_count
from yolos_jax.tools.analysis.tables import markdown

PASSES = {"forward": 1, "forward_backward": 3, "step": 3}  # a backward pass costs as much as two forward passes


def main() -> None:
    arguments = parse()
    device = jax.devices()[0]
    sides = [kind for kind in arguments.against if peers.available()]
    if arguments.against and not sides:
        print("note: PyTorch or transformers is not installed; measuring only yolos-jax", file=sys.stderr)
    found: dict[str, Any] = {"environment": machine(device), "rows": []}
    if arguments.sizes_of:
        found["published"] = published_rows(first_sizes(arguments.sizes_of))
        print(cost_table(found["published"]))
    for case in cases_of(arguments) if arguments.workloads else []:
        if not arguments.skip_check:
            agree(case, device, bool(sides), arguments.matcher)
        peak = device_peak(device, case.dtype)
        for work in arguments.workloads:
            row = measure(case, work, device, peak, sides, arguments)
            found["rows"].append(row)
            print(markdown(model_rows([row])), flush=True)
    if len(found["rows"]) > 1:
        print(markdown(model_rows(found["rows"])))
    if arguments.out:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_case_flags(parser)
    parser.add_argument("--workloads", nargs="*", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--against", nargs="*", choices=peers.KINDS, default=["sdpa"], help="PyTorch implementations to compare with"
    )
    parser.add_argument("--pairs", type=positive, default=5, help="measurements per library")
    parser.add_argument("--matcher", choices=("host", "device"), default="host", help="where a step runs the matcher")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory, in separate processes")
    parser.add_argument("--skip-check", action="store_true", help="do not compare outputs first")
    parser.add_argument(
        "--sizes-of", type=Path, help="COCO annotation file; counts multiply-adds for its first 100 images"
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        raise InputError(f"the parent folder of {arguments.out} does not exist; create it or choose another --out.")
    return arguments


def measure(
    case: Case, work: str, device: jax.Device, peak: Peak, sides: list[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Measures one kind of work for one case; returns a JSON-serialisable row."""
    params, inputs = params_of(case), inputs_of(case)
    ours = Ours(case, params, inputs, device, arguments.matcher).work(work)
    print(f"{work}, {case}: {ours.how}", flush=True)
    against: dict[str, Any] = {}
    seconds: list[float] = []
    for kind in sides:
        try:
            theirs = peers.Peer(case, params, inputs, peers.device_of(device), kind).work(work)
            pairs = in_pairs(ours.run, theirs.run, arguments.pairs)
        except Exception as error:  # torch.compile fails in many ways, depending on the machine
            if kind != "compile":
                raise
            against[kind] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
            continue
        seconds += pairs.ours
        against[kind] = {"seconds": median(pairs.theirs), "ratio": median(pairs.ratios), "ratios": pairs.ratios}
        against[kind] |= {"compile_seconds": theirs.compile_seconds} if kind == "compile" else {}
    seconds = seconds or alone(ours.run, arguments.pairs)
    needed = PASSES[work] * multiply_adds(case.config, *case.grid).total
    row = {
        "case": case._asdict(), "work": work, "how": ours.how, "seconds": median(seconds),
        "compile_seconds": ours.compile_seconds,
        "images_per_second": case.batch / median(seconds), "multiply_adds": needed,
        "parameters": parameter_count(case.config), "peak_flops": peak.flops, "peak_origin": peak.origin,
        "share_of_peak": 2 * needed * case.batch / median(seconds) / peak.flops, "against": against,
    }  # fmt: skip
    if arguments.memory:
        row["memory"] = {side: memory_of(case, work, side) for side in ("ours", *against)}
    return row


if __name__ == "__main__":
    with clear_errors():
        main()
