"""Published data sets in COCO's format with other file names, and LVIS's differences. No jax here."""

import re
from pathlib import Path

from yolos_jax.datasets.annotations import Content

# Prefixes of their files; the split follows. They may be too large to be recognised by their ends.
FILES = re.compile(r"(lvis_v[\d.]+|zhiyuan_objv\d|objects365(v\d)?|open-?images(_?v\d)?)_", re.IGNORECASE)
LVIS_KEY = "not_exhaustive_category_ids"
ABOUT_LVIS = (
    "LVIS is scored with COCO's metrics here; LVIS's own metrics use only the categories that were annotated "
    "exhaustively in an image, and 300 detections per image"
)


def place_lvis(content: Content, folder: Path) -> tuple[Path, list[str]]:
    """(the folder that file names are relative to, notes); for LVIS, the parent of `folder` and a note.

    LVIS's file names include the folder of COCO's split, `train2017` or `val2017`: its splits have images of both.
    """
    if not any(LVIS_KEY in image for image in content["images"][:1]):
        return folder, []
    first = content["images"][0]["file_name"].split("/")[0]
    return (folder.parent if (folder.parent / first).is_dir() else folder), [ABOUT_LVIS]
