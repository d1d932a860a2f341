"""Generates small COCO folders with images of noise."""

import json
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.datasets.annotations import stop
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.examples import read_split
from yolos_jax.datasets.layouts import coco_folder
from yolos_jax.datasets.settings import Settled, SplitOptions


def make_coco(root: Path, sizes, split="train2017", annotations=None, categories=None) -> Path:
    """Writes images `1.jpg`, `2.jpg`, ... of (width, height) `sizes`; by default, each has one box of category 1."""
    rng = np.random.default_rng(0)
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    images = []
    for i, (width, height) in enumerate(sizes, 1):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(root / split / f"{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "width": width, "height": height})
    if annotations is None:
        annotations = [box(i, i, [4, 4, 20, 10]) for i in range(1, len(sizes) + 1)]
    content = {
        "images": images,
        "annotations": annotations,
        "categories": categories or [{"id": 1, "name": "one"}, {"id": 7, "name": "seven"}],
    }
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def box(annotation_id, image_id, bbox, category=1, **more) -> dict:
    area = bbox[2] * bbox[3] if len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox) else 0
    return {
        "id": annotation_id,
        "image_id": image_id,
        "bbox": bbox,
        "category_id": category,
        "area": area,
        "iscrowd": 0,
    } | more


def coco_split(
    root, split, num_classes=0, max_images=0, category_ids=None, annotations="", image_folder="", complain=stop,
    **options,
) -> DataSet:  # fmt: skip
    """Reads `instances_SPLIT.json` and images in `SPLIT/`, or the given paths; `options` are for `SplitOptions`."""
    file = Path(annotations or Path(root, "annotations", f"instances_{split}.json"))
    opened = partial(coco_folder.read, file, Path(image_folder or Path(root, split)))
    options.setdefault("settled", Settled(category_ids=category_ids))
    return read_split(opened, SplitOptions(num_classes=num_classes, max_images=max_images, **options), complain)
