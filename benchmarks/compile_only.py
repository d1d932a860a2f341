"""Compiles forward passes and training steps for GPUs and TPUs that are not present, and prints memory and costs.

make compile-only TARGETS="h100.txtpb a100.txtpb"
make compile-only-tpu TPUS="v5e v4" OPTIONS="--dtypes bfloat16 --devices 1 8"
python -m benchmarks.compile_only --targets h100.txtpb --recipes yolos_s --programs step --launches

It needs no GPU or TPU, but uses the real compilers: XLA with ptxas from jax's CUDA packages (in .venv-gpu), or libtpu
(in .venv-tpu). A target is a TPU version (v4, v5e, v5p, v6e) or a file that describes a GPU: XLA's
GpuTargetConfigProto in text format. To create such a file, run any jax program on that GPU with
XLA_FLAGS=--xla_dump_to=FOLDER; the file is FOLDER/*.gpu_target_config.pbtxt.

The programs are the same as in `yolos-train` and `Detector` (`benchmarks.programs`), with default compiler options and
the sequence length of the recipe's longest training bucket. Peak memory is taken from XLA's buffer assignment and
includes parameters, optimizer state, activations and temporaries on one device. On a GPU, the CUDA context (about half
a GB) and the workspaces of cuBLAS and cuDNN need additional memory at run time. The largest batch sizes in the table
are extrapolated linearly to 75% of a GPU's memory, the fraction that jax uses unless XLA_PYTHON_CLIENT_MEM_FRACTION is
set. Programs whose results are in the `--out` file are not compiled again. Compiling a step takes one to several
minutes. Only one process at a time can use libtpu. The host matcher compiles only for TPUs, because jax cannot compile
callbacks for a GPU that is not present.
"""

import argparse
import dataclasses
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies

from benchmarks.common import augmentation, positive, recipe_of
from benchmarks.launches import calls, collectives, cost
from benchmarks.programs import batch_of, forward, placed, training_step
from yolos_jax.distributed.mesh import data_mesh, replicated
from yolos_jax.errors import InputError, clear_errors, counted
from yolos_jax.model.config import Compute

RECIPES = "yolos_ti", "yolos_s", "yolos_s_dwr", "yolos_b"
CLASSES = 91  # number of labels for COCO
GIGABYTES, SHARE = (12, 16, 24, 40, 80), 0.75
HOST = 8  # GPUs per host
# Bytes of memory per chip, and the topology to request for each number of chips
# (https://cloud.google.com/tpu/docs/v4, v5e, v5p and v6e, read in 2026).
TPUS: dict[str, tuple[float, dict[int, str]]] = {
    "v4": (32 * 2**30, {1: "2x2x1", 8: "2x2x2", 64: "4x4x4", 256: "4x8x8"}),
    "v5e": (16e9, {1: "2x2", 8: "2x4", 64: "8x8", 256: "16x16"}),
    "v5p": (95e9, {1: "2x2x1", 8: "2x2x2", 64: "4x4x4", 256: "4x8x8"}),
    "v6e": (32e9, {1: "2x2", 8: "2x4", 64: "8x8", 256: "16x16"}),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile."""

    target: str  # TPU version, or the stem of the file that describes a GPU
    devices: int
    recipe: str
    program: str  # "forward" (without gradient) or "step"
    dtype: str
    remat: bool
    matcher: str  # "device" or "host"; "" for a forward pass
    images: int  # number of images per device
    options: str = ""  # compiler options, such as "xla_gpu_enable_latency_hiding_scheduler=true"
    patches: int = 0  # sequence length; 0 in files of earlier versions
    objects: int = 0  # maximum number of boxes per image; 0 for a forward pass


def main() -> None:
    arguments = flags().parse_args()
    out = Path(arguments.out)
    done = {Case(**entry["case"]): entry for entry in json.loads(out.read_text())} if out.exists() else {}
    for target in arguments.targets:
        for case in cases(arguments, Path(target).stem):
            if not is_finished(done.get(case), target, arguments.launches):
                done[case] = {"case": dataclasses.asdict(case)} | measured(case, target, arguments)
                out.write_text(json.dumps(list(done.values()), indent=1) + "\n")
                print(line(done[case]), flush=True)
    print("", *table(list(done.values())), sep="\n")


def is_finished(entry: dict[str, Any] | None, target: str, launches: bool) -> bool:
    """Whether a result in the file has everything that is wanted."""
    if entry is None:
        return False
    return "launches" in entry or "error" in entry or not launches or target in TPUS


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", required=True, help=f"{', '.join(TPUS)}, or files that describe a GPU")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="recipe names such as yolos_s, or files")
    parser.add_argument("--programs", nargs="+", default=["forward", "step"], choices=["forward", "step"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument(
        "--remat", nargs="+", type=int, default=[0], choices=[0, 1], help="whether a step rematerializes activations"
    )
    parser.add_argument(
        "--matchers", nargs="+", default=["device"], choices=["device", "host"], help="where a step runs the matcher"
    )
    parser.add_argument("--images", nargs="+", type=positive, default=[1], help="images per device")
    parser.add_argument("--devices", nargs="+", type=int, default=[1], choices=[1, 8, 64, 256])
    parser.add_argument("--patches", type=positive, help="sequence length (default: the recipe's longest bucket)")
    parser.add_argument("--objects", type=positive, default=100, help="boxes per image (the maximum in COCO is 93)")
    parser.add_argument("--launches", action="store_true", help="count kernel launches and bytes moved (GPUs only)")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="XLA compiler options")
    parser.add_argument("--hlo", type=Path, help="folder for the optimized HLO of every program")
    parser.add_argument("--out", default="compile_only.json", help="JSON file for results; keeps existing results")
    return parser


def cases(arguments: argparse.Namespace, target: str) -> list[Case]:
    """All combinations of the flags' values; rematerialization and the matcher apply only to steps."""
    found, options = [], " ".join(arguments.options)
    for program in arguments.programs:
        step = program == "step"
        found += [
            Case(
                target,
                devices,
                name,
                program,
                dtype,
                bool(remat),
                matcher,
                images,
                options,
                arguments.patches or longest(name),
                arguments.objects if step else 0,
            )
            for devices in arguments.devices
            for name in arguments.recipes
            for dtype in arguments.dtypes
            for remat in (arguments.remat if step else [0])
            for matcher in (arguments.matchers if step else [""])
            for images in arguments.images
        ]
    return found


def option_of(text: str) -> tuple[str, Any]:
    """Parses a compiler option such as KEY=true or KEY=100 into its name and value."""
    key, _, value = text.partition("=")
    known = {"true": True, "false": False}
    return key, known[value] if value in known else int(value) if value.isdigit() else value


def devices_of(target: str, count: int) -> tuple[Sequence[Any], float]:
    """Descriptions of `count` devices and the memory of each in bytes; raises `InputError` if there are none."""
    try:
        if target in TPUS:
            memory, layouts = TPUS[target]
            return _tpus(target, layouts[count])[:count], memory
        text = Path(target).read_text()
        layout = f"1x{max(1, count // HOST)}x{min(count, HOST)}"  # slices x hosts x GPUs per host
        found = topologies.get_topology_desc(platform="cuda", topology_name="", topology=layout, target_config=text)
        size = re.search(r"device_memory_size: (\d+)", text)
        return found.devices, float(size[1]) if size else 0.0
    except (OSError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{target} is not available as a target ({reason}); see --targets in --help.") from error


def _tpus(kind: str, layout: str) -> Sequence[Any]:
    """The devices of a slice; on v4 and v5p, the two cores of a chip form one device, as at run time."""
    # Otherwise, libtpu queries a metadata server that exists only on Google Cloud.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    chip = {"chip_config_name": "megacore"} if kind in ("v4", "v5p") else {}
    return topologies.get_topology_desc(f"{kind}:{layout}", platform="tpu", **chip).devices


def measured(case: Case, target: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compiles a program; returns its compile time, memory, calls and collectives, or the first line of the error."""
    devices, memory = devices_of(target, case.devices)
    start, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        try:
            jitted, shapes, compute = made(case, devices)
            gpu = devices[0].platform != "tpu"
            options = dict(map(option_of, arguments.options))
            options |= {"xla_dump_to": folder} if gpu else {}
            program = jitted.lower(*shapes).compile(compiler_options=options)
        except RuntimeError as error:  # from XLA, or from jax if the program has a callback and the GPU is not present
            return {"error": str(error).splitlines()[0][:300]}
        tf32 = sum("tf32" in path.read_text() for path in Path(folder).glob("*.ptx"))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peaks, hlo = program.memory_analysis(), program.as_text()
    if arguments.hlo:
        arguments.hlo.mkdir(parents=True, exist_ok=True)
        (arguments.hlo / f"{re.sub('[^-=.0-9A-Za-z]+', '-', name_of(case))}.hlo").write_text(hlo)
    found = {
        "attention": compute.attention,
        "query_block": compute.query_block,
        "peak_bytes": peaks.peak_memory_in_bytes,
        "state_bytes": peaks.argument_size_in_bytes,
        "memory_bytes": memory,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "kernels_with_tf32": tf32,
        "calls": calls(hlo),
        "collectives": [each._asdict() for each in collectives(hlo)],
    }
    if arguments.launches and gpu:
        counted = cost(hlo)
        found |= {"launches": counted.launches.total(), "moved_bytes": counted.moved.total(), "by_kind": {
            kind: [count, counted.moved[kind]] for kind, count in counted.launches.most_common()
        }, "unknown_loops": counted.unknown_loops}  # fmt: skip
    return found


def made(case: Case, devices: Sequence[Any]) -> tuple[Any, tuple, Compute]:
    """Returns the jitted program of a case, the shapes of its arguments, and its `Compute`."""
    mesh = data_mesh(devices)
    wanted = recipe_of(case.recipe)
    wanted.precision, wanted.model.remat = case.dtype, case.remat
    images = case.images * mesh.size
    if case.program == "forward":
        found = forward(wanted, devices, CLASSES)
        batch = batch_of(found.model, mesh, images, case.patches, case.objects)
        shapes = placed(found.shapes, replicated(mesh))
        return found.program, (shapes, batch.patches, batch.grid, batch.grid), found.compute
    train = wanted.train
    parts = train.accumulate if case.images % train.accumulate == 0 else 1
    replica = min(train.images_per_replica, case.images // parts)
    train.update(batch_size=images, accumulate=parts, images_per_replica=replica)
    wanted.matcher = case.matcher
    step = training_step(wanted, mesh, CLASSES)
    batch = batch_of(step.task.model, mesh, images, case.patches, case.objects)
    return step.program, (step.state, batch), step.task.compute


def longest(name: str) -> int:
    """The largest number of patches when training with a recipe on images with aspect ratios of up to 2."""
    return augmentation(name).longest(np.array([(1000, height) for height in range(500, 1001)]))


def name_of(case: Case) -> str:
    """Formats a case as text."""
    remat = " remat" if case.remat else ""
    matcher = f" matcher={case.matcher}" if case.matcher == "host" else ""
    options = f" {case.options}" if case.options else ""
    program = f"{case.recipe} {case.program} {case.dtype}{remat}{matcher}"
    objects = f" objects={case.objects}" if case.objects else ""
    return f"{case.target} x{case.devices} {program} images={case.images} patches={case.patches}{objects}{options}"


def line(entry: dict[str, Any]) -> str:
    """Formats a result as one line."""
    case = Case(**entry["case"])
    if "error" in entry:
        return f"{name_of(case)}: does not compile: {entry['error']}"
    attention = entry["attention"]
    if attention == "blocks":
        attention += f" of {entry['query_block']}"
    said = [
        f"{entry['peak_bytes'] / 1e9:.2f} GB",
        f"attention: {attention}",
        f"compiled in {entry['seconds']} s ({entry['cpu_seconds']} s of CPU time)",
    ]
    if entry["memory_bytes"]:
        said[0] += f" of {entry['memory_bytes'] / 1e9:.0f}"
    if "launches" in entry:
        said.append(f"{entry['launches']} launches, {entry['moved_bytes'] / 1e9:.1f} GB moved")
        said += [f"{counted(entry['unknown_loops'], 'loop')} of unknown length"] if entry["unknown_loops"] else []
    said += [f"{counted(count, 'call')} to {name}" for name, count in list(entry["calls"].items())[:4]]
    said += [f"TF32 in {entry['kernels_with_tf32']} kernel(s)"] if entry["kernels_with_tf32"] else []
    for each in entry["collectives"]:
        said.append(f"{each['number']} {each['op']}, {each['bytes'] / 1e6:.3f} MB, {each['beside']} launches overlap")
    return f"{name_of(case)}: {'; '.join(said)}"


def largest_batch(peaks: dict[int, int], memory: float) -> int | None:
    """The largest batch that fits into `memory` bytes, extrapolated linearly; None if only one size was measured."""
    few, many = min(peaks), max(peaks)
    if few == many:
        return None
    each = (peaks[many] - peaks[few]) / (many - few)
    return max(0, int(few + (memory - peaks[few]) / each))


def table(entries: list[dict[str, Any]]) -> list[str]:
    """Peak memory as a markdown table, with one row per program."""
    rows: dict[tuple, dict[int, int]] = {}
    failed = [entry for entry in entries if "error" in entry]
    for entry in entries:
        if "error" not in entry:
            key = tuple(value for name, value in dataclasses.asdict(Case(**entry["case"])).items() if name != "images")
            rows.setdefault(key, {})[entry["case"]["images"]] = entry["peak_bytes"]
    counts = sorted({images for peaks in rows.values() for images in peaks})
    head = ["target", "devices", "recipe", "program", "dtype", "remat", "matcher", "options", "patches", "boxes"]
    head += [f"{n} image(s), GB" for n in counts] + [f"max. batch, {size} GB" for size in GIGABYTES]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (*words, remat, matcher, options, patches, objects), peaks in rows.items():
        cells = [*words, "yes" if remat else "no", matcher, options, patches, objects]
        cells += [f"{peaks[n] / 1e9:.2f}" if n in peaks else "" for n in counts]
        most = [largest_batch(peaks, size * 1e9 * SHARE) for size in GIGABYTES]
        cells += ["" if n is None else n for n in most]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines + [line(entry) for entry in failed]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # do not initialize a GPU
    with clear_errors():
        main()
