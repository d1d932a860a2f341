"""Compares how fast yolos-jax and a PyTorch DataLoader load training images.

python -m benchmarks.loader --data data/coco --split train2017 --workers 2

As in the reference, the DataLoader augments each image separately and pads the images of a batch to the same size.
"""

import argparse
import contextlib
import functools
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.common import AHEAD, augmentation, in_turns, loading_flags, steps_of
from yolos_jax.data.augment import Crop, Flip, Pipeline
from yolos_jax.data.detection_batches import detection_work
from yolos_jax.data.loader import load_batches
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.opening import find_split
from yolos_jax.datasets.settings import SplitOptions
from yolos_jax.errors import InputError, clear_errors
from yolos_jax.images.reading import open_rgb
from yolos_jax.images.sequence import ceil_div, resized_size

BUCKETS = 12
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet statistics


def main() -> None:
    arguments = loading_flags(__doc__, "train2017", pairs=3).parse_args()
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError("the comparison needs PyTorch: pip install '.[torch]'") from None
    source = read_split(find_split(Path(arguments.data), arguments.split), SplitOptions())
    pipeline = augmentation("yolos_s")
    loaders = {"yolos-jax": sequences, "PyTorch": canvases}
    in_turns(arguments, {name: functools.partial(loader, source, pipeline) for name, loader in loaders.items()})


def sequences(source: DataSet, pipeline: Pipeline, arguments: argparse.Namespace, seed: int) -> Generator[int]:
    """Loads with yolos-jax; yields the number of images in each batch."""
    steps = steps_of(arguments)
    epochs = ceil_div(steps, max(1, len(source.examples) // arguments.batch_size))
    plan = TrainingPlan(source.examples.sizes, pipeline, arguments.batch_size, BUCKETS, epochs, seed)
    work = detection_work(source, plan, pipeline.patch, ceil_div(pipeline.resize.max_side, pipeline.patch))
    with contextlib.closing(load_batches(work, 0, steps, arguments.workers, AHEAD)) as batches:
        yield from (int(loaded.batch.valid.sum()) for loaded in batches)


def canvases(source: DataSet, pipeline: Pipeline, arguments: argparse.Namespace, seed: int) -> Generator[int]:
    """Loads with PyTorch, as in the reference; yields the number of images in each batch."""
    import torch

    steps = steps_of(arguments)
    epochs = ceil_div(steps * arguments.batch_size, len(source.examples))
    generator = np.random.default_rng(seed)
    order = np.concatenate([generator.permutation(len(source.examples)) for _ in range(epochs)])
    torch.manual_seed(seed)  # also determines the workers' seeds
    loader = torch.utils.data.DataLoader(
        CanvasImages(source, pipeline),
        batch_sampler=order[: steps * arguments.batch_size].reshape(steps, -1).tolist(),
        num_workers=arguments.workers,
        prefetch_factor=AHEAD,
        collate_fn=on_one_canvas,
        worker_init_fn=_one_thread,
        multiprocessing_context="spawn",  # as in yolos-jax; forking is unsafe because jax is multithreaded
    )
    for _, mask, _ in loader:
        yield len(mask)


def _one_thread(worker: int) -> None:
    import torch

    torch.set_num_threads(1)


class CanvasImages:
    """Images as float tensors and their targets, augmented as in the reference."""

    def __init__(self, source: DataSet, pipeline: Pipeline):
        flip, crop = pipeline.before
        assert isinstance(flip, Flip) and isinstance(crop, Crop)
        self.source, self.flip, self.crop, self.resize = source, flip, crop, pipeline.resize

    def __len__(self) -> int:
        return len(self.source.examples)

    def __getitem__(self, index: int) -> Any:
        import torch

        example, flip, crop, resize = self.source.examples[index], self.flip, self.crop, self.resize
        image = open_rgb(example.file)
        boxes, labels = torch.from_numpy(example.boxes), torch.from_numpy(example.labels)
        if random.random() < flip.probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            boxes = boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor(
                [image.width, 0, image.width, 0]
            )
        if random.random() < crop.probability:
            image, boxes = _resized(image, boxes, random.choice(crop.sides), None, crop.patch)
            image, boxes, labels = _cropped(image, boxes, labels, crop.range)
        image, boxes = _resized(image, boxes, random.choice(resize.short_sides), resize.max_side, resize.patch)
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
    """Pads images with zeros to the largest height and width; the mask is True for padding."""
    import torch

    height, width = (max(pixels.shape[axis] for pixels, _ in items) for axis in (1, 2))
    canvas = torch.zeros(len(items), 3, height, width)
    mask = torch.ones(len(items), height, width, dtype=torch.bool)
    for slot, (pixels, _) in enumerate(items):
        canvas[slot, :, : pixels.shape[1], : pixels.shape[2]].copy_(pixels)
        mask[slot, : pixels.shape[1], : pixels.shape[2]] = False
    return canvas, mask, [targets for _, targets in items]


if __name__ == "__main__":
    with clear_errors():
        main()
