"""Makes small COCO folders of noise images, for tests that need files but no meaning."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def make_coco(root: Path, sizes, split="train2017", annotations=None, categories=None) -> Path:
    """Images `1.jpg`, `2.jpg`... of (width, height) `sizes`; by default one box of category 1 on each."""
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
