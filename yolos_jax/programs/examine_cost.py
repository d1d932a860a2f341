"""yolos-analyze cost: reports parameters, multiply-adds and speed."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from yolos_jax.errors import InputError, make_folder
from yolos_jax.images.sequence import Geometry
from yolos_jax.inference.compiled import AUTO, keep_compiled
from yolos_jax.inference.detector import Detector
from yolos_jax.inference.loading import geometry_for, load_model
from yolos_jax.model.config import Compute, variant
from yolos_jax.model.yolos import build
from yolos_jax.programs.command_line import say
from yolos_jax.programs.examine_attention import still_images
from yolos_jax.tools.analysis import costs
from yolos_jax.tools.analysis.multiply_adds import multiply_adds
from yolos_jax.tools.analysis.tables import markdown, write_rows
from yolos_jax.training.checkpoint_files import Meta

TYPICAL = (640, 480)  # COCO's most frequent image size in pixels, the default


def report_cost(args: Any) -> None:
    """Prints and writes the requested tables."""
    say(keep_compiled(AUTO))
    sizes = costs.first_sizes(args.sizes_of) if args.sizes_of else np.array([TYPICAL])
    if not args.sizes_of:
        print("note: these costs are for one image of {}x{} pixels; use --sizes-of for other sizes".format(*TYPICAL))
    models = models_of(args)
    images: list[Path] = []
    if args.pictures:
        images = [Path(image.name) for image in still_images([str(args.pictures)])[: costs.IMAGES]]
    if args.out:
        make_folder(args.out)
    if args.checkpoint or args.short_side:
        rows = [costs.cost_row(name, meta.model, geometry, sizes) for name, _, meta, geometry in models]
    else:
        rows = costs.published_rows(sizes, args.variants)
    print(costs.cost_table(rows))
    for sentence in costs.differences_from_paper(rows) if args.sizes_of else []:
        print(sentence)
    found: dict[str, Any] = {"rows": rows}
    if args.xla:
        found["xla"] = [xla_row(name, meta, geometry, sizes[0]) for name, _, meta, geometry in models]
        print(markdown([rounded(row) for row in found["xla"]]))
        print("XLA also counts norms, softmax, GELU and the resizing of position embeddings.")
    if images:
        found |= {"environment": costs.environment(jax.devices()[0]), "speed": []}
        for name, params, meta, geometry in models:
            found["speed"].append(speed_row(name, params, meta, geometry, images))
        print(markdown([rounded(row) for row in found["speed"]]))
    if args.out:
        (args.out / "cost.json").write_text(json.dumps(found, indent=1) + "\n")
        write_rows(args.out / "cost.csv", rows)
        print(f"written to {args.out}")


def models_of(args: Any) -> list[tuple[str, dict | None, Meta, Geometry]]:
    """(name, parameters if any, metadata, geometry) of the checkpoint or of each variant."""
    if args.checkpoint:
        params, meta = load_model(args.checkpoint)
        return [(Path(args.checkpoint).name, params, meta, geometry_for(meta, args.short_side, args.max_side))]
    if args.max_side and not args.short_side:
        raise InputError("--max-side requires --short-side or --checkpoint.")
    out: list[tuple[str, dict | None, Meta, Geometry]] = []
    for name in args.variants:
        meta = Meta(variant(name), {})
        largest = max(short_side for published, short_side, *_ in costs.PAPER if published == name)
        geometry = Geometry.of(args.short_side or largest, args.max_side or 0, meta.model.patch_size, Compute.max_side)
        out.append((name, None, meta, geometry))
    return out


def xla_row(name: str, meta: Meta, geometry: Geometry, size: np.ndarray) -> dict[str, Any]:
    """Multiply-adds for one image: as counted by XLA, and from the formula."""
    width, height = (side // meta.model.patch_size for side in geometry.size(*map(int, size)))
    formula = multiply_adds(meta.model, height, width).total
    xla = costs.counted_by_xla(meta.model, height, width)
    return {"model": name, "rows": height, "columns": width, "formula": formula, "XLA": xla, "ratio": xla / formula}


def speed_row(name: str, params: dict | None, meta: Meta, geometry: Geometry, images: list[Path]) -> dict[str, Any]:
    """Images per second at batch size 1; a variant's parameters are random, which does not affect speed."""
    params = params or build(meta.model, 0, "from_nothing")[1]
    detector = Detector(params, meta, geometry.short_side, geometry.max_side)
    speeds = {f"images/s, {what}": value for what, value in costs.frames_per_second(detector, images).items()}
    return {"model": name, "short side": geometry.short_side, "images": len(images)} | speeds


def rounded(row: dict[str, Any]) -> dict[str, str]:
    """Values rounded for display."""
    return {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items()}
