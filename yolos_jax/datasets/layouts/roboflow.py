"""Roboflow's COCO export: `train/`, `valid/` and `test/`, each with `_annotations.coco.json` beside its images."""

from functools import partial
from pathlib import Path

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts import coco_folder

NAME = "Roboflow's COCO"
FILE = "_annotations.coco.json"


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """What opens each split of a folder, by its name; nothing if the folder is in another layout."""
    files = [root / FILE] if (root / FILE).is_file() else sorted(root.glob(f"*/{FILE}"))
    return {file.parent.name: partial(read, file) for file in files}


def read(file: Path, complain: Complain) -> Annotations:
    """Reads a split, without the category that stands above the others and that nothing is annotated with."""
    found = coco_folder.read(file, file.parent, complain, NAME)
    categories = found.content["categories"]
    above = {c.get("supercategory") for c in categories}
    used = {a.get("category_id") for a in found.content["annotations"]}
    roots = [c for c in categories if c.get("supercategory") == "none" and c["name"] in above and c["id"] not in used]
    if roots and len(roots) < len(categories):
        found.content["categories"] = [c for c in categories if c not in roots]
        names = ", ".join(repr(str(c["name"])) for c in roots)
        found.notes.append(f"the category {names} of {file} only stands above the others and is left out")
    return found
