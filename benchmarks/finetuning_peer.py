"""Compares fine-tuning in yolos-jax and transformers with the same weights, images, order, learning rate and steps.

python -m benchmarks.finetuning_peer --out runs/peer
python -m benchmarks.finetuning_peer --out runs/few --images 160 --epochs 2 --seeds 0 --start-epochs 1    # quick test

yolos-jax trains with `yolos_jax.train`. transformers trains in a plain PyTorch loop: `YolosForObjectDetection` with its
loss and matching, `torch.optim.AdamW` with the same parameter groups as yolos-jax, and `clip_grad_norm_`. Both compute
in float32 and read the same batches of coloured digits, which have one size and are not augmented. Both start from the
same weights: the starting detector of `benchmarks.finetuning` (`start`), or random weights (`nothing`). The seed
determines the order of the images and the random weights. The same function scores the final outputs of both.

After a few hundred steps, rounding errors make the runs differ as much as two seeds do. The losses of the first step
must agree to within 1e-4; otherwise, the benchmark raises an error and prints no table.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import finetuning, peers, run_queue
from benchmarks.common import positive
from benchmarks.finetuning_rows import recipe_from
from yolos_jax.config.recipes import DetectionConfig
from yolos_jax.data.augment import Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.examples import TrainBatch
from yolos_jax.data.loader import ALL
from yolos_jax.data.plan import EvaluationPlan
from yolos_jax.distributed.mesh import data_mesh
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.evaluation.coco_metrics import coco_metrics, to_results
from yolos_jax.inference.loading import load_model
from yolos_jax.model.config import YolosConfig
from yolos_jax.model.yolos import MEAN, STD, apply
from yolos_jax.objective.weights import LossWeights
from yolos_jax.tasks import recipe
from yolos_jax.tasks.detection import DetectionTask
from yolos_jax.tools.analysis.tables import markdown
from yolos_jax.weights.huggingface import to_huggingface
from yolos_jax.weights.huggingface_config import write_config

SIDES = ("ours", "transformers")
BATCH = 16
SIDE = 72  # side of the images in pixels
SHOWN = (1, 2, 10, 100)  # steps whose losses are compared
SAME = 1e-4  # maximum relative difference between the losses of the first step
STATED: dict[str, Any] = {
    "data.train_split": "train", "data.val_split": "val", "data.categories": "contiguous", "data.scales": (),
    "data.short_side": SIDE, "data.max_side": SIDE, "data.workers": 0, "data.buckets": 1, "model.max_side": SIDE // 8,
    "train.batch_size": BATCH, "train.images_per_replica": BATCH, "train.log_every": 1, "train.curves": False,
    "optimizer.learning_rate": 5e-4, "optimizer.schedule": "step", "optimizer.warmup_epochs": 1.0,
    "eval.every_epochs": 0, "eval.compilation_cache": "off", "checkpoint.every_steps": 1_000_000,
}  # fmt: skip
Forward = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(patches, grid) -> (logits `[B, Q, K + 1]`, boxes `[B, Q, 4]`)."""


def main() -> None:
    """Executes the runs that have no result yet, and prints tables of losses and AP."""
    if sys.argv[1:2] == [run_queue.ONE]:
        one(json.loads(sys.argv[2]))
        return
    arguments = flags().parse_args()
    if not peers.available():
        raise InputError("the comparison needs PyTorch and transformers; install '.[parity]'.")
    start = arguments.start or finetuning.start_of(arguments.out, arguments.start_epochs)
    runs = runs_of(arguments, start)
    results = run_queue.run_all("benchmarks.finetuning_peer", runs, arguments.out, arguments.jobs)
    print(markdown(loss_rows(results)), markdown(rows_of(results)), sep="\n\n")


def flags() -> argparse.ArgumentParser:
    """The command-line parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, runs and results")
    parser.add_argument("--images", type=positive, default=1000, help="number of training scenes")
    parser.add_argument("--epochs", type=positive, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", choices=finetuning.STARTS, default=["start"])
    parser.add_argument("--start", type=Path, help="run to use as the starting detector (default: train one)")
    parser.add_argument("--start-epochs", type=positive, help="epochs to train the starting detector")
    parser.add_argument("--jobs", type=positive, default=2, help="number of parallel runs, each on one core")
    return parser


def runs_of(arguments: argparse.Namespace, start: Path) -> list[dict[str, Any]]:
    """Returns a run for each starting point, seed and library."""
    model = load_model(start)[1].model
    root = finetuning.data_folder("digits", arguments)
    annotations = finetuning.subset(root, arguments.images, 0)
    settings = STATED | {f"model.{key}": value for key, value in model.to_dict().items()}
    settings |= {"data.root": str(root), "data.train_annotations": str(annotations), "train.epochs": arguments.epochs}
    found = []
    for begin in arguments.starts:
        for seed in arguments.seeds:
            own = {"seed": seed, "init": str(start) if begin == "start" else "from_nothing"}
            for side in SIDES:
                name = f"{begin}-{seed}-{side}"
                run = {"name": name, "start": begin, "seed": seed, "side": side, "settings": settings | own}
                found.append(run | {"workdir": str(arguments.out / "runs" / name)})
    return found


def one(run: dict[str, Any]) -> None:
    """Trains with one library and prints the results as JSON on the last line."""
    run_queue.stay_on(run["core"])
    config = recipe.prepare(recipe_from(run["settings"]), DetectionConfig)
    task = DetectionTask(config, data_mesh(jax.devices()[:1]))
    begin = time.perf_counter()
    if run["side"] == "ours":
        losses, forward = train_ours(task, Path(run["workdir"]))
    else:
        losses, forward = train_theirs(task)
    seconds = time.perf_counter() - begin
    numbers = score(task, forward)
    found: dict[str, Any] = {"AP": numbers["AP"], "AP50": numbers["AP50"], "seconds": seconds, "steps": len(losses)}
    found |= {f"loss {step}": losses[step - 1] for step in SHOWN if step <= len(losses)}
    found["last epoch's loss"] = statistics.mean(losses[-task.steps_per_epoch :])
    print(json.dumps(found))


def train_ours(task: DetectionTask, workdir: Path) -> tuple[list[float], Forward]:
    """Trains with yolos-jax; returns the loss of each step, and the trained network as a function."""
    from yolos_jax import train

    shutil.rmtree(workdir, ignore_errors=True)
    outcome = train(task.config, workdir, devices=jax.devices()[:1])
    if outcome.signal:
        sys.exit(128 + outcome.signal)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    params = load_model(workdir)[0]
    run = jax.jit(lambda patches, grid: apply(task.graph, params, patches, grid))

    def forward(patches: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        out = run(patches, grid)
        return np.asarray(out.logits), np.asarray(out.boxes)

    return [line["total"] for line in lines if "total" in line], forward


def train_theirs(task: DetectionTask) -> tuple[list[float], Forward]:
    """Trains with `transformers` in a plain PyTorch loop; returns the same as `train_ours`."""
    import torch

    torch.set_num_threads(1)
    patch, optimizer_settings = task.model.patch_size, task.config.optimizer
    model = network(task.starting_params(), task.model, task.config.loss).train()
    optimizer = torch.optim.AdamW(groups_of(model, optimizer_settings.weight_decay), lr=0.0)
    losses = []
    with contextlib.closing(task.batches(0, ALL)) as batches:
        for loaded in batches:
            for group in optimizer.param_groups:
                group["lr"] = float(task.schedule(loaded.step))
            batch: TrainBatch = loaded.batch
            optimizer.zero_grad(set_to_none=True)
            loss = model(pixel_values=pixels_of(batch.patches, batch.grid, patch), labels=labels_of(batch)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), optimizer_settings.clip_norm)
            optimizer.step()
            losses.append(float(loss.detach()))
    model.eval()

    def forward(patches: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            out = model(pixel_values=pixels_of(patches, grid, patch))
        return out.logits.numpy(), out.pred_boxes.numpy()

    return losses, forward


def network(params: dict, model: YolosConfig, weights: LossWeights) -> Any:
    """The transformers model with these parameters and loss weights."""
    import torch
    import transformers

    values = {key: value for key, value in write_config(model, None).items() if key != "architectures"}
    ce, bbox, giou = (int(weight) for weight in (weights.ce, weights.bbox, weights.giou))  # transformers requires ints
    values |= {"class_cost": ce, "bbox_cost": bbox, "giou_cost": giou}
    values |= {"bbox_loss_coefficient": bbox, "giou_loss_coefficient": giou, "eos_coefficient": weights.no_object}
    found: Any = transformers.YolosForObjectDetection(transformers.YolosConfig(**values))
    found.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in to_huggingface(params, model).items()})
    return found


def groups_of(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for AdamW with the same weight decay as `training.optimizer.decay_mask`."""
    decayed: list[Any] = []
    others: list[Any] = []
    for name, parameter in model.named_parameters():
        is_head = name.startswith(("class_labels_classifier.", "bbox_predictor."))
        is_matrix = name.endswith(".weight") and parameter.ndim > 1
        chosen = is_head or is_matrix or "mid_position_embeddings" in name
        (decayed if chosen else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def pixels_of(patches: np.ndarray, grid: np.ndarray, patch: int) -> Any:
    """Converts the patches of images of one size to a float32 tensor `[B, 3, H, W]` of normalised pixels."""
    import torch

    rows, columns = (int(side) for side in grid[0])
    if (grid != grid[0]).any() or rows * columns != patches.shape[1]:
        raise InputError("the images differ in size, so transformers would pad them; use images of one size.")
    cut = patches.reshape(len(patches), rows, columns, patch, patch, 3)
    images = cut.transpose(0, 1, 3, 2, 4, 5).reshape(len(patches), rows * patch, columns * patch, 3)
    mean, std = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)
    normal = (images.astype(np.float32) / 255 - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normal.transpose(0, 3, 1, 2)))


def labels_of(batch: TrainBatch) -> list[dict[str, Any]]:
    """The targets of a batch in the format that transformers expects."""
    import torch

    found = []
    for labels, boxes, count in zip(batch.labels, batch.boxes, batch.count):
        classes = torch.from_numpy(labels[:count].astype(np.int64))
        found.append({"class_labels": classes, "boxes": torch.from_numpy(boxes[:count].copy())})
    return found


def score(task: DetectionTask, forward: Forward) -> dict[str, float]:
    """COCO metrics on the validation split, computed from the best class of every query, as in DETR."""
    source = recipe.source_of(task.config, "val", task.source.category_ids, task.source.num_classes)
    examples = source.examples
    geometry = recipe.geometry_of(task.config, task.model)
    plan = EvaluationPlan(examples.sizes, Pipeline.of(geometry), BATCH, 1)
    work = detection_work(source, plan, task.model.patch_size, task.compute.max_side)
    category = np.array(source.category_ids)
    results: list[dict[str, Any]] = []
    for step in range(len(plan)):
        loaded = work(step)
        there = int((loaded.indices >= 0).sum())  # the last batch may have empty slots at the end
        logits, boxes = forward(loaded.batch.patches[:there], loaded.batch.grid[:there])
        for index, scores, box in zip(loaded.indices, logits, boxes):
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            probabilities = (weights / weights.sum(-1, keepdims=True))[:, :-1]
            corners = np.concatenate([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], axis=1)
            pixels = corners * np.tile(examples.sizes[index], 2)
            labels = category[probabilities.argmax(-1)]
            results += to_results(examples.image_ids[index], probabilities.max(-1), labels, pixels)
    return coco_metrics(source.ground_truth(), results, examples.image_ids.tolist())


def loss_rows(results: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Table rows for `markdown` with both losses; raises `InputError` if those of the first step differ too much."""
    rows = []
    for ours, theirs in pairs_of(results):
        row = {"start": ours["run"]["start"], "seed": str(ours["run"]["seed"])}
        for name in (*(f"loss {step}" for step in SHOWN), "last epoch's loss"):
            if name in ours:
                apart = abs(ours[name] - theirs[name]) / theirs[name]
                row[name] = f"{ours[name]:.6f}, {theirs[name]:.6f} (difference {apart:.0e})"
        first = abs(ours["loss 1"] - theirs["loss 1"]) / theirs["loss 1"]
        if first > SAME:
            raise InputError(f"the losses of step 1 differ by {first:.1e}: {ours['loss 1']}, {theirs['loss 1']}.")
        rows.append(row)
    return rows


def pairs_of(results: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The results of both libraries, for each starting point and seed."""
    found = {(each["run"]["start"], each["run"]["seed"], each["run"]["side"]): each for each in results}
    keys = sorted({key[:2] for key in found}, key=lambda key: (key[0] == "nothing", key[1]))
    return [(found[*key, SIDES[0]], found[*key, SIDES[1]]) for key in keys]


def rows_of(results: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """Table rows for `markdown`: AP for each seed, and the mean and range over seeds."""
    rows = []
    pairs = pairs_of(results)
    for start in dict.fromkeys(ours["run"]["start"] for ours, _ in pairs):
        for place, side in enumerate(SIDES):
            of_side = [pair[place] for pair in pairs if pair[0]["run"]["start"] == start]
            row = {"start": start, "library": side, "steps": str(of_side[0]["steps"])}
            row |= {f"AP, seed {each['run']['seed']}": f"{each['AP']:.3f}" for each in of_side}
            row["AP"] = finetuning.spread([each["AP"] for each in of_side], ".3f")
            row["AP50"] = finetuning.spread([each["AP50"] for each in of_side], ".3f")
            row["seconds"] = finetuning.spread([each["seconds"] for each in of_side], ".0f")
            rows.append(row)
    return rows


if __name__ == "__main__":
    with clear_errors():
        main()
