"""Compares the run time of yolos-predict on one image, including start-up, with that of the transformers pipeline.

python -m benchmarks.first_box cat.jpg --variant s --pairs 5

It times complete processes, which alternate and load the same Hugging Face folder (--checkpoint, or random weights).
The first run of yolos-predict compiles and writes a new compilation cache; later runs use that cache.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import peers
from benchmarks.cases import Case, params_of
from benchmarks.common import positive
from benchmarks.measuring import in_pairs, processor
from yolos_jax.datasets.coco_names import COCO_NAMES
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.model.config import VARIANTS
from yolos_jax.tools.analysis.costs import timed
from yolos_jax.tools.analysis.tables import markdown
from yolos_jax.weights import export_huggingface

THEIRS = """
import sys
from transformers import pipeline
print(pipeline("object-detection", model=sys.argv[1])(sys.argv[2], threshold=0.5))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--checkpoint", type=Path, help="Hugging Face folder (default: random weights)")
    parser.add_argument("--variant", choices=list(VARIANTS), default="s", help="model size for random weights")
    parser.add_argument("--pairs", type=positive, default=5, help="measurements per program")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if not peers.available():
        raise InputError("the comparison needs PyTorch and transformers: pip install '.[parity]'")
    print(processor())
    with tempfile.TemporaryDirectory() as folder:
        row = measure(arguments, Path(folder))
    print(markdown([{
        "first run (compiles)": f"{row['first']:.2f} s", "later runs": f"{row['ours']:.2f} s",
        "transformers": f"{row['theirs']:.2f} s", "speed ratio": f"{row['ratio']:.2f}",
    }]))  # fmt: skip
    if arguments.out:
        arguments.out.write_text(json.dumps(row, indent=1) + "\n")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Returns run times in seconds, in a dict that can be written as JSON; `folder` is for temporary files."""
    checkpoint = arguments.checkpoint or folder / "weights"
    if arguments.checkpoint is None:
        case = Case(arguments.variant, 800, 1056, 1, "float32")
        export_huggingface(params_of(case), case.config, COCO_NAMES, checkpoint)
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(folder / "cache")}

    def run(*command: Any) -> None:
        done = subprocess.run([sys.executable, *map(str, command)], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise InputError(f"{command[1]} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:300]}")

    def ours() -> None:
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        run("-m", "yolos_jax.programs.predict", arguments.image, "--checkpoint", checkpoint, "--out", out)

    first = timed(ours)
    pairs = in_pairs(ours, lambda: run("-c", THEIRS, checkpoint, arguments.image), arguments.pairs)
    return {"first": first, "ours": median(pairs.ours), "theirs": median(pairs.theirs), "ratio": median(pairs.ratios),
            "all_ours": pairs.ours, "all_theirs": pairs.theirs}  # fmt: skip


if __name__ == "__main__":
    with clear_errors():
        main()
