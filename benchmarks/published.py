"""Multiply-adds and parameters beside the paper's Tables 4 to 6."""

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.tables import markdown
from yolos_jax.data.annotations import read_annotations
from yolos_jax.errors import InputError
from yolos_jax.images.sequence import default_max_side, resized_sizes
from yolos_jax.model.config import VARIANTS
from yolos_jax.model.cost import mean_multiply_adds, parameter_count

IMAGES = 100  # of the split, the first ones by their place in the annotation file
# variant, short side, billions of multiply-adds, images per second on a 1080 Ti, AP (arXiv 2106.00666)
PAPER = (
    ("ti", 256, 3.4, 114, 23.1), ("ti", 432, 11.7, 84, 28.6), ("ti", 512, 18.8, 60, 28.7), ("ti", 528, 20.7, 51, 30.0),
    ("ti", 800, 81, 12.0, 29.6),
    ("s", 800, 194, 5.7, 36.1), ("s_dwr", 704, 123, 7.7, 37.2), ("s_dwr", 784, 172, 5.7, 37.6),
    ("b", 800, 538, 2.7, 42.0),
)  # fmt: skip


def published_table(annotations: Path) -> tuple[list[dict[str, Any]], str]:
    """Rows, JSON-ready, and the table, over the sizes of an annotation file's first images."""
    listed = read_annotations(annotations)["images"][:IMAGES]
    if not listed:
        raise InputError(f"{annotations} lists no images.")
    sizes = np.array([(image["width"], image["height"]) for image in listed])
    rows = []
    for name, short_side, paper, speed, ap in PAPER:
        config = VARIANTS[name]
        grids = resized_sizes(sizes, short_side, default_max_side(short_side))[:, ::-1] // config.patch_size
        whole, ours = (mean_multiply_adds(config, grids, as_published) for as_published in (True, False))
        rows.append({
            "variant": name, "short_side": short_side, "parameters": parameter_count(config), "images": len(listed),
            "multiply_adds_as_published": whole, "multiply_adds": ours, "paper": paper * 1e9, "paper_fps": speed,
            "paper_ap": ap,
        })  # fmt: skip
    return rows, markdown([_shown(row) for row in rows])


def _shown(row: dict[str, Any]) -> dict[str, str]:
    whole, paper = row["multiply_adds_as_published"], row["paper"]
    return {
        "variant": row["variant"], "short side": str(row["short_side"]),
        "parameters": f"{row['parameters'] / 1e6:.1f} M", "all of the last block": f"{whole / 1e9:.1f} G",
        "the paper's": f"{paper / 1e9:g} G ({100 * (whole / paper - 1):+.1f} %)",
        "multiply-adds here": f"{row['multiply_adds'] / 1e9:.1f} G",
        "the paper's images/s, 1080 Ti": f"{row['paper_fps']:g}",
    }  # fmt: skip
