"""Measures the data pipeline: how much batches are padded, and how fast images are loaded.

python benchmark.py padding --sizes data/coco/annotations/instances_train2017.json
python benchmark.py loader --data data/coco --split train2017 --workers 2
python benchmark.py tfds --data data/coco --tfds data/tfds --split val2017 --workers 2

`loader` compares with a PyTorch DataLoader that pads onto canvases, as the
reference does; `tfds` compares images for evaluation from a COCO folder and
from TFDS records. Both run in turns, so that a busy machine slows both alike.
"""

import argparse
import contextlib
import importlib
import random
import statistics
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from yolos_jax.data.annotations import read_annotations
from yolos_jax.data.augment import Augmentation
from yolos_jax.data.examples import Source
from yolos_jax.data.loader import LoadStep, load
from yolos_jax.data.plan import EvaluationPlan, PlannedBatch, TrainingPlan
from yolos_jax.data.sources.coco import CocoSource
from yolos_jax.data.tfds.source import TfdsSource
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import resized_size

BUCKETS = 4, 8, 12, 16
CANVASES = 8, 16  # images on canvases of one size
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
AHEAD = 2  # batches that every worker prepares ahead


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    padding = commands.add_parser("padding", help="share of padding, and seconds to plan an epoch")
    padding.add_argument("--sizes", nargs="+", required=True, type=Path, help="COCO annotation files, for image sizes")
    padding.add_argument("--images", type=_positive, default=118_000, help="repeat the sizes up to so many images")
    padding.add_argument("--batch-size", type=_positive, default=8)
    padding.set_defaults(run=measure_padding)
    loader = commands.add_parser("loader", help="images per second, against a PyTorch DataLoader with canvases")
    _common(loader, "train2017", pairs=3)
    loader.set_defaults(run=measure_loaders)
    records = commands.add_parser("tfds", help="images per second of evaluation, TFDS records against a COCO folder")
    records.add_argument("--tfds", required=True, type=Path, help="TFDS directory with the same images")
    _common(records, "val2017", pairs=9)
    records.set_defaults(run=measure_records)
    arguments = parser.parse_args()
    arguments.run(arguments)


def _common(parser: argparse.ArgumentParser, split: str, pairs: int) -> None:
    parser.add_argument("--data", required=True, type=Path, help="COCO folder")
    parser.add_argument("--split", default=split)
    parser.add_argument("--workers", type=_positive, default=2)
    parser.add_argument("--batch-size", type=_positive, default=8)
    parser.add_argument("--images", type=_positive, default=400, help="images of every measurement")
    parser.add_argument("--pairs", type=_positive, default=pairs, help="measurements of each")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return value


def recipe_of(name: str) -> ConfigDict:
    """The recipe of that name."""
    return importlib.import_module(f"configs.{name}").get_config()


def augmentation(name: str) -> Augmentation:
    """As the recipe of that name trains, on images of the sizes it trains with."""
    from yolos_jax import recipe

    config = recipe_of(name)
    draw = recipe.augmentation_of(config, recipe.model_of(config, 91))
    assert isinstance(draw, Augmentation)
    return draw


# Padding


def measure_padding(arguments: argparse.Namespace) -> None:
    listed = [image for path in arguments.sizes for image in read_annotations(path)["images"]]
    if not listed:
        raise InputError(f"{arguments.sizes[0]} lists no images.")
    sizes = np.resize(np.array([(image["width"], image["height"]) for image in listed]), (arguments.images, 2))
    batch = arguments.batch_size
    print(f"{len(sizes)} images with the sizes of {len(listed)}, batches of {batch}")
    for name in ("yolos_s", "yolos_ti"):
        draw = augmentation(name)
        print(f"\n{name}: short sides {min(draw.scales)} to {max(draw.scales)}, long ones up to {draw.max_side}")
        print(f"{'':24}{'padding':>10}{'edges':>10}{'an epoch':>10}")
        for buckets in BUCKETS:
            start = time.perf_counter()
            plan = TrainingPlan(sizes, draw, batch, buckets, epochs=150, seed=0)
            middle = time.perf_counter()
            plan.epoch(0)
            end = time.perf_counter()
            print(f"{f'{buckets} buckets':24}{plan.padding():10.2%}{middle - start:8.2f} s{end - middle:8.2f} s")
        for count in CANVASES:
            if count <= len(sizes):
                share = canvas_padding(draw.views(sizes, 0, 0).size, count)
                print(f"{f'canvases, batches of {count}':24}{share:10.2%}")


def canvas_padding(sizes: np.ndarray, count: int) -> float:
    """Share of padding if images in random order are padded to the largest width and height of `count`."""
    order = np.random.default_rng(0).permutation(len(sizes))[: len(sizes) // count * count]
    batches = sizes[order].astype(np.int64).reshape(-1, count, 2)
    return 1.0 - float(batches.prod(2).sum()) / float(count * batches.max(1).prod(1).sum())


# Loaders


def measure_loaders(arguments: argparse.Namespace) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError("the comparison needs PyTorch: pip install '.[torch]'") from None
    source, draw = CocoSource(arguments.data, arguments.split), augmentation("yolos_s")
    in_turns(arguments, {"ours": (ours, source, draw), "canvases (PyTorch)": (canvases, source, draw)})


def in_turns(arguments: argparse.Namespace, measured: dict[str, tuple[Any, Any, Any]]) -> None:
    """Prints the images per second of two, each (batches, source, draw), and how much faster the first is."""
    ratios, (one, other) = [], measured
    for pair in range(arguments.pairs):
        order = (one, other) if pair % 2 == 0 else (other, one)
        speed = {name: images_per_second(*measured[name], arguments, seed=pair) for name in order}
        ratios.append(speed[one] / speed[other])
        print(f"{one} {speed[one]:7.2f} images/s   {other} {speed[other]:7.2f}   {ratios[-1]:5.2f} x")
    print(f"median of the ratios: {statistics.median(ratios):.2f} x, with {arguments.workers} workers")


def images_per_second(
    batches: Callable[..., Generator[int]], source: Any, draw: Any, arguments: argparse.Namespace, seed: int
) -> float:
    """Speed from the first batch on, which the start of the workers delays."""
    steps = max(2, -(-arguments.images // arguments.batch_size) + 1)
    with contextlib.closing(batches(source, draw, arguments, seed, steps)) as counts:
        next(counts)
        start = time.perf_counter()
        images = sum(counts)
        return images / (time.perf_counter() - start)


def ours(source: CocoSource, draw: Augmentation, arguments: Any, seed: int, steps: int) -> Generator[int]:
    """Sequences: yields the number of images of every batch."""
    epochs = -(-steps // max(1, len(source.examples) // arguments.batch_size))
    plan = TrainingPlan(source.examples.sizes, draw, arguments.batch_size, 12, epochs, seed)
    work = LoadStep(source, plan, draw.patch, -(-draw.max_side // draw.patch))
    with contextlib.closing(load(work, 0, steps, arguments.workers, AHEAD)) as batches:
        for loaded in batches:
            yield int(loaded.batch.valid.sum())


def canvases(source: CocoSource, draw: Augmentation, arguments: Any, seed: int, steps: int) -> Generator[int]:
    """The reference's way, with PyTorch: yields the number of images of every batch."""
    import torch

    epochs = -(-steps * arguments.batch_size // len(source.examples))
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(source.examples)) for _ in range(epochs)])
    torch.manual_seed(seed)  # the workers' random numbers follow from it
    loader = torch.utils.data.DataLoader(
        CanvasImages(source, draw),
        batch_sampler=order[: steps * arguments.batch_size].reshape(steps, -1).tolist(),
        num_workers=arguments.workers,
        prefetch_factor=AHEAD,
        collate_fn=on_one_canvas,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn",  # as ours; fork and the threads of a running jax do not go together
    )
    for _, mask, _ in loader:
        yield len(mask)


def _one_thread(worker: int) -> None:
    import torch

    torch.set_num_threads(1)


class CanvasImages:
    """Images as float tensors with their targets, augmented one by one as the reference does."""

    def __init__(self, source: CocoSource, draw: Augmentation):
        self.source, self.draw = source, draw

    def __len__(self) -> int:
        return len(self.source.examples)

    def __getitem__(self, index: int) -> Any:
        import torch

        example, draw = self.source.examples[index], self.draw
        image = open_rgb(example.file)
        boxes, labels = torch.from_numpy(example.boxes), torch.from_numpy(example.labels)
        if random.random() < draw.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor(
                [image.width, 0, image.width, 0]
            )
        if random.random() < draw.crop:
            image, boxes = _resized(image, boxes, random.choice(draw.crop_sides), None, draw.patch)
            image, boxes, labels = _cropped(image, boxes, labels, draw.crop_range)
        image, boxes = _resized(image, boxes, random.choice(draw.scales), draw.max_side, draw.patch)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)
        pixels.sub_(torch.tensor(MEAN)[:, None, None]).div_(torch.tensor(STD)[:, None, None])
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], 1)
        return pixels, {"labels": labels, "boxes": boxes / torch.tensor([image.width, image.height] * 2)}


def _resized(image: Image.Image, boxes: Any, side: int, most: int | None, patch: int) -> tuple[Image.Image, Any]:
    import torch

    size = resized_size(*image.size, side, most, patch)
    x, y = size[0] / image.width, size[1] / image.height
    return image.resize(size, Image.Resampling.BILINEAR), boxes * torch.tensor([x, y, x, y])


def _cropped(image: Image.Image, boxes: Any, labels: Any, bounds: tuple[int, int]) -> tuple[Image.Image, Any, Any]:
    import torch

    width, height = (random.randint(min(bounds[0], side), min(bounds[1], side)) for side in image.size)
    left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
    boxes = (boxes - torch.tensor([left, top, left, top])).reshape(-1, 2, 2)
    boxes = torch.min(boxes, torch.tensor([width, height])).clamp(min=0)
    keep = (boxes[:, 1] > boxes[:, 0]).all(1)
    image = image.crop((left, top, left + width, top + height))
    return image, boxes.reshape(-1, 4)[keep], labels[keep]


def on_one_canvas(items: list) -> Any:
    """Pads images with zeros to the largest height and width; the mask is True there."""
    import torch

    height, width = (max(pixels.shape[axis] for pixels, _ in items) for axis in (1, 2))
    canvas = torch.zeros(len(items), 3, height, width)
    mask = torch.ones(len(items), height, width, dtype=torch.bool)
    for slot, (pixels, _) in enumerate(items):
        canvas[slot, :, : pixels.shape[1], : pixels.shape[2]].copy_(pixels)
        mask[slot, : pixels.shape[1], : pixels.shape[2]] = False
    return canvas, mask, [targets for _, targets in items]


# Records of TFDS


def measure_records(arguments: argparse.Namespace) -> None:
    folder = CocoSource(arguments.data, arguments.split)
    records = TfdsSource(arguments.tfds, arguments.split, annotations=folder.annotation_file)
    in_turns(arguments, {"records": (for_evaluation, records, None), "folder": (for_evaluation, folder, None)})


def for_evaluation(source: Source, _: None, arguments: Any, seed: int, steps: int) -> Generator[int]:
    """Sequences as the recipe yolos_s evaluates them, over and over: yields the number of images of every batch."""
    from yolos_jax import recipe

    config = recipe_of("yolos_s")
    geometry = recipe.geometry_of(config, recipe.model_of(config, 91))
    plan = Again(EvaluationPlan(source.examples.sizes, geometry, arguments.batch_size, config.data.buckets))
    work = LoadStep(source, plan, geometry.patch, geometry.model_max_side)
    with contextlib.closing(load(work, 0, steps, arguments.workers, AHEAD)) as batches:
        yield from (int(loaded.batch.valid.sum()) for loaded in batches)


class Again:
    """A plan without an end."""

    def __init__(self, plan: EvaluationPlan):
        self.plan, self.batch_size, self.edges, self.substitute = plan, plan.batch_size, plan.edges, plan.substitute

    def __len__(self) -> int:
        return sys.maxsize

    def batch(self, step: int) -> PlannedBatch:
        return self.plan.batch(step % len(self.plan))


if __name__ == "__main__":
    with clear_errors():
        main()
