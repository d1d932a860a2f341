"""Compiles forward passes and training steps for NVIDIA GPUs that need not be there, and tells what they need.

make gpu-memory TARGET=h100.txtpb
python -m benchmarks.gpu_memory --target h100.txtpb --recipes yolos_s --dtypes float32 --images 1 8

The compiler is XLA's with ptxas, from jax's CUDA packages (.venv-gpu has them); no GPU is used. `--target` names a
file that describes the GPU: XLA's GpuTargetConfigProto as text. A program that runs on such a GPU writes it into
FOLDER with XLA_FLAGS=--xla_dump_to=FOLDER, as *.gpu_target_config.pbtxt.

A peak is that of XLA's buffer assignment: parameters, optimizer, activations and temporaries of one GPU, with
sequences of the longest bucket of the recipe's training. The CUDA context (about half a GB) and what cuBLAS and cuDNN
ask for at run time come on top. jax takes 75 % of a GPU's memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says
otherwise, and so do the largest batches of the table: by a straight line through the compiled ones. Programs that are
in the file of `--out` are not compiled again. A step takes one to two minutes to compile.
"""

import argparse
import dataclasses
import functools
import json
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks.common import augmentation, positive, recipe_of
from yolos_jax.accelerators.choice import decided
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.data.examples import TrainBatch
from yolos_jax.distributed.mesh import data_mesh, replicated, split_over
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.inference.detector import detect
from yolos_jax.model.config import Compute
from yolos_jax.model.yolos import abstract
from yolos_jax.setting import part
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import batch_divisors, detection_loss
from yolos_jax.training.optimizer import make_optimizer, schedule_of
from yolos_jax.training.rates import Rates, make_average, make_hold, rates_of
from yolos_jax.training.step import fresh_state, make_gradient, make_step

RECIPES = "yolos_ti", "yolos_s", "yolos_s_dwr", "yolos_b"
CLASSES, OBJECTS = 91, 100  # COCO's classes; boxes that a batch has room for in each image (COCO's most is 93)
GIGABYTES, SHARE = (12, 16, 24, 40, 80), 0.75
COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"


@dataclasses.dataclass(frozen=True)
class Case:
    """One program."""

    gpu: str  # stem of the target's file name
    topology: str  # processes x hosts x GPUs of each, as XLA writes it: "1x1x8", or "1x4x8" for four hosts
    recipe: str
    program: str  # "forward" (without gradient) or "step"
    dtype: str
    remat: bool
    images: int  # on each GPU


def main() -> None:
    arguments = flags().parse_args()
    out = Path(arguments.out)
    done = {Case(**entry["case"]): entry for entry in json.loads(out.read_text())} if out.exists() else {}
    for target in arguments.target:
        for case in cases(arguments, target.stem):
            if case not in done:
                done[case] = {"case": dataclasses.asdict(case)} | measured(case, target)
                out.write_text(json.dumps(list(done.values()), indent=1) + "\n")
                print(line(done[case]), flush=True)
    print("", *table(list(done.values())), sep="\n")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", nargs="+", required=True, type=Path, help="descriptions of GPUs")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="names, such as yolos_s, or files")
    parser.add_argument("--programs", nargs="+", default=["forward", "step"], choices=["forward", "step"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--remat", nargs="+", type=int, default=[0, 1], choices=[0, 1], help="of steps")
    parser.add_argument("--images", nargs="+", type=positive, default=[1, 4], help="on each GPU")
    parser.add_argument("--topology", default="1x1x1", help="1x1x8: one host with 8 GPUs; 1x4x8: four of them")
    parser.add_argument("--out", default="gpu_memory.json", help="results, as JSON; those there are kept")
    return parser


def cases(arguments: argparse.Namespace, gpu: str) -> list[Case]:
    """All combinations; a forward pass has nothing to compute again, and evaluation is float32."""
    found = [
        Case(gpu, arguments.topology, name, program, dtype, bool(remat), images)
        for name in arguments.recipes
        for program in arguments.programs
        for dtype in arguments.dtypes
        for remat in arguments.remat
        for images in arguments.images
    ]
    return [case for case in found if case.program == "step" or (case.dtype == "float32" and not case.remat)]


def measured(case: Case, target: Path) -> dict[str, Any]:
    """Seconds to compile, peak bytes of one GPU, collectives; or the first line of the compiler's error."""
    try:
        text = target.read_text()
        devices = topologies.get_topology_desc(
            platform="cuda", topology_name="", topology=case.topology, target_config=text
        ).devices
    except (OSError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"there is no GPU to compile for ({reason}); see --help on --target.") from error
    start, lowered = time.perf_counter(), lower(case, devices)
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = lowered.compile(compiler_options={"xla_dump_to": folder})
        except jax.errors.JaxRuntimeError as error:
            return {"error": str(error).splitlines()[0][:300]}
        tf32 = sum("tf32" in path.read_text() for path in Path(folder).glob("*.ptx"))
    memory, hlo = program.memory_analysis(), program.as_text()
    return {
        "patches": longest(case.recipe),
        "peak_bytes": memory.peak_memory_in_bytes,
        "state_bytes": memory.argument_size_in_bytes,
        "seconds": round(time.perf_counter() - start, 1),
        "kernels_with_tf32": tf32,
        "cudnn_calls": len(re.findall(r'custom_call_target="__cudnn\$fmha', hlo)),
        "collectives": {name: len(re.findall(rf" {name}(?:-start)?\(", hlo)) for name in COLLECTIVES},
        "gathered": re.findall(r"= (.*) all-gather(?:-start)?\(", hlo),  # shapes: flags of images, no activations
    }


def lower(case: Case, devices: Sequence[Any]) -> Any:
    """The program of a case, of shapes only. The matcher is the device's: a callback needs a real backend."""
    mesh = data_mesh(devices)
    wanted = recipe_of(case.recipe)
    wanted.model.update(compute_dtype=case.dtype, remat=case.remat)
    config = recipe.prepare(wanted, DetectionConfig)
    model = recipe.model_of(config, CLASSES)
    graph, shapes = abstract(model, decided(part(config.model, Compute), model, devices[0]))
    shape: Any = jax.ShapeDtypeStruct
    images, patches = case.images * mesh.size, longest(case.recipe)
    pixels, pairs = shape((images, patches, model.patch_values), jnp.uint8), shape((images, 2), jnp.int32)
    if case.program == "forward":
        split, same = split_over(mesh), replicated(mesh)
        forward = functools.partial(detect, graph)
        program = jax.jit(forward, in_shardings=(same, split, split, split), out_shardings=split)
        return program.lower(shapes, pixels, pairs, pairs)
    batch = TrainBatch(
        pixels, pairs, shape((images, OBJECTS), jnp.int32), shape((images, OBJECTS, 4), jnp.float32),
        shape((images,), jnp.int32), shape((images,), jnp.bool_),
    )  # fmt: skip
    rates = rates_of(config.optimizer, shapes)
    state = jax.eval_shape(lambda p: fresh_state(p, optimizer_of(config, rates), bool(config.train.ema)), shapes)
    return step_of(config, graph, mesh, case.images, rates).lower(state, batch)


def step_of(config: DetectionConfig, graph: Any, mesh: jax.sharding.Mesh, images: int, rates: Rates) -> Any:
    """The recipe's training step for so many images on each GPU, in the recipe's parts if it can be cut into them."""
    parts = config.train.accumulate if images % config.train.accumulate == 0 else 1
    replica = min(config.train.images_per_replica, images // parts)
    loss = detection_loss(graph, replica, "device", mesh, config.loss)
    gradient = make_gradient(loss, batch_divisors(replica), mesh, parts, make_hold(rates))
    return make_step(gradient, optimizer_of(config, rates), mesh, make_average(config.train.ema, rates))


def optimizer_of(config: DetectionConfig, rates: Rates) -> Any:
    """The recipe's optimizer, for epochs of a thousand steps."""
    optimizer = config.optimizer
    schedule = schedule_of(optimizer, config.train.epochs, 1000)
    return make_optimizer(optimizer.name, schedule, optimizer.weight_decay, optimizer.clip_norm, rates)


def longest(name: str) -> int:
    """Patches of the longest sequence that a recipe trains with, of images up to twice as long as wide."""
    return augmentation(name).longest(np.array([(1000, height) for height in range(500, 1001)]))


def line(entry: dict[str, Any]) -> str:
    """What is printed when a program has been compiled."""
    case, name = entry["case"], " ".join(str(value) for value in entry["case"].values())
    if "error" in entry:
        return f"{name}: does not compile: {entry['error']}"
    found = {key: count for key, count in entry["collectives"].items() if count}
    tf32 = f", TF32 in {entry['kernels_with_tf32']} kernels" if case["dtype"] == "float32" else ""
    gathered = f" (gathered {', '.join(entry['gathered'])})" if entry.get("gathered") else ""
    return f"{name}: {entry['peak_bytes'] / 1e9:.2f} GB, {entry['seconds']} s, collectives {found}{gathered}{tf32}"


def largest_batch(peaks: dict[int, int], memory: float) -> int | None:
    """Most images whose peak fits into so many bytes, on the line through the outermost counts; None for one count."""
    few, many = min(peaks), max(peaks)
    if few == many:
        return None
    each = (peaks[many] - peaks[few]) / (many - few)
    return max(0, int(few + (memory - peaks[few]) / each))


def table(entries: list[dict[str, Any]]) -> list[str]:
    """The peaks as lines of Markdown, one row for each program and its numbers of images."""
    rows: dict[tuple, dict[int, int]] = {}
    failed = [entry for entry in entries if "error" in entry]
    for entry in entries:
        if "error" not in entry:
            key = tuple(value for name, value in entry["case"].items() if name != "images")
            rows.setdefault((*key, entry["patches"]), {})[entry["case"]["images"]] = entry["peak_bytes"]
    counts = sorted({images for peaks in rows.values() for images in peaks})
    head = ["GPU", "GPUs", "recipe", "program", "dtype", "remat", "patches", *(f"{n} image(s), GB" for n in counts)]
    head += [f"most in {size} GB" for size in GIGABYTES]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (gpu, topology, name, program, dtype, remat, patches), peaks in rows.items():
        cells = [gpu, topology, name, program, dtype, "yes" if remat else "no", patches]
        cells += [f"{peaks[n] / 1e9:.2f}" if n in peaks else "" for n in counts]
        most = [largest_batch(peaks, size * 1e9 * SHARE) for size in GIGABYTES]
        cells += ["" if n is None else n for n in most]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines + [line(entry) for entry in failed]


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")  # nothing is to look for a GPU
    with clear_errors():
        main()
