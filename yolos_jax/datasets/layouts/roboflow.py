"""The Roboflow COCO export: `train/`, `valid/` and `test/`, each with images and `_annotations.coco.json`."""

import os
from functools import partial
from pathlib import Path

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts import coco_folder
from yolos_jax.datasets.listing import folders_in
from yolos_jax.errors import shown

NAME = "Roboflow COCO"
FILE = "_annotations.coco.json"


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    files = [folder / FILE for folder in folders_in(root) if os.path.lexists(folder / FILE)]
    files = [root / FILE] if os.path.lexists(root / FILE) else files
    return {file.parent.name: partial(read, file) for file in files}


def read(file: Path, complain: Complain) -> Annotations:
    """Reads a split; removes an unused category that is only the parent of other categories."""
    found = coco_folder.read(file, file.parent, complain, NAME)
    categories = found.content["categories"]
    above = [c.get("supercategory") for c in categories]
    used = {shown(a.get("category_id")) for a in found.content["annotations"]}  # unchecked, so ids may have any type
    tops = [c for c in categories if c.get("supercategory") == "none" and c["name"] in above]
    roots = [c for c in tops if shown(c["id"]) not in used]
    if roots and len(roots) < len(categories):
        found.content["categories"] = [c for c in categories if c not in roots]
        names = ", ".join(repr(str(c["name"])) for c in roots)
        found.notes.append(f"the category {names} in {file} is only the parent of others and is omitted")
    return found
