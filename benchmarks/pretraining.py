"""Tests the paper's claim about pre-training, with digit detectors trained from a classifier or from scratch.

python -m benchmarks.pretraining --out runs/claim                      # one to two hours on two CPU cores
python -m benchmarks.pretraining --out runs/few --seeds 1 --scenes 160 --images 160 --epochs 1 2   # minutes

Detectors are trained with `configs/digits.py` from three starting points, with the same number of steps: the random
initialization of the reference, which is meant to be overwritten by DeiT's weights (`reference`), this package's
initialization for training from scratch (`from_nothing`), and a classifier trained with `configs/digits_pretrain.py`
(`pre-trained`). The table shows the mean and standard deviation over seeds of AP on held-out digits. Each number of
epochs is a separate run with its own schedule. Existing results are kept. If OUT was created with different data or
classifiers, the benchmark raises an error.
"""

import argparse
import contextlib
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import positive, recipe_of
from yolos_jax.datasets import digits, single_digits
from yolos_jax.errors import InputError, clear_errors

SHARED = ("scenes", "images", "pretrain_epochs")  # flags that must be the same for all runs in a folder
STARTS = ("reference", "from_nothing", "pre-trained")


def main() -> None:
    """Executes the runs that have no result yet, and prints the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--seeds", type=positive, default=3)
    parser.add_argument("--epochs", type=positive, nargs="+", default=[1, 2, 4, 8, 14])
    parser.add_argument("--scenes", type=positive, default=6000, help="number of training scenes")
    parser.add_argument("--images", type=positive, default=8000, help="number of digits for pre-training")
    parser.add_argument("--pretrain-epochs", type=positive, default=10)
    arguments = parser.parse_args()
    begin(arguments)
    found = {
        (start, epochs): [held_out(arguments, start, epochs, seed) for seed in range(arguments.seeds)]
        for epochs in arguments.epochs
        for start in STARTS
    }
    print(table(found, arguments.epochs, arguments.seeds))


def begin(arguments: argparse.Namespace) -> None:
    """Writes scenes and single digits, which do not depend on the training seeds.

    Raises `InputError` if the folder was created with different flags, whose results would end up in the same table.
    """
    out, wanted = arguments.out, {key: getattr(arguments, key) for key in SHARED}
    made = out / "made.json"  # written last, so the data are complete if it exists
    if not made.is_file():
        digits.write(out / "scenes", arguments.scenes)
        single_digits.write(out / "digits", arguments.images)
        made.write_text(json.dumps(wanted))
    found = json.loads(made.read_text())
    if found != wanted:
        raise InputError(f"{out} was created with {found}, not with {wanted}; choose another --out.")


def classifier(arguments: argparse.Namespace, seed: int) -> Path:
    """Returns the folder of a classifier for one seed; trains the classifier if it does not exist."""
    from yolos_jax.tasks.classification.task import evaluate_classifier, pretrain

    folder = arguments.out / f"classifier-{seed}"
    config = recipe_of("digits_pretrain")
    config.seed = seed
    config.data.root = str(arguments.out / "digits")
    config.train.epochs = arguments.pretrain_epochs
    numbers = folder / "numbers.json"
    if not numbers.is_file():
        pretrain(config, folder)
        metrics = evaluate_classifier(config, folder).metrics
        numbers.write_text(json.dumps(metrics))
        print(f"classifier, seed {seed}: top-1 {metrics['top1']:.4f} on held-out digits")
    return folder


def held_out(arguments: argparse.Namespace, start: str, epochs: int, seed: int) -> float:
    """Returns the AP of one run on held-out digits; trains and evaluates if there is no result yet."""
    from yolos_jax import evaluate, train

    folder = arguments.out / f"{start}-{epochs}-{seed}"
    numbers = folder / "numbers.json"
    if not numbers.is_file():
        config: Any = recipe_of("digits")
        config.seed = seed
        config.data.root = str(arguments.out / "scenes")
        config.train.epochs = epochs
        config.init = str(classifier(arguments, seed)) if start == STARTS[-1] else start
        train(config, folder)
        numbers.write_text(json.dumps(evaluate(config, folder).metrics))
        with contextlib.suppress(OSError, ValueError):
            print(f"{folder.name}: AP {json.loads(numbers.read_text())['AP']:.4f}")
    try:
        return float(json.loads(numbers.read_text())["AP"])
    except (ValueError, KeyError) as error:
        raise InputError(f"{numbers} has no AP; delete it to evaluate again.") from error


def table(found: dict[tuple[str, int], list[float]], epochs: list[int], seeds: int) -> str:
    """Mean and standard deviation of AP as a markdown table."""
    lines = [f"| epochs | {' | '.join(STARTS)} |", "|---|" + "---|" * len(STARTS)]
    for count in epochs:
        cells = []
        for start in STARTS:
            values = found[start, count]
            spread = f" ± {statistics.stdev(values):.3f}" if seeds > 1 else ""
            cells.append(f"{statistics.mean(values):.3f}{spread}")
        lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with clear_errors():
        main()
