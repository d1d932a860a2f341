"""Published data sets in COCO's format under names of their own, and what is different in LVIS. No jax here."""

import re
from pathlib import Path

from yolos_jax.datasets.annotations import Content

# What their files begin with; the split follows. They may be too large to be recognised by their ends.
FILES = re.compile(r"(lvis_v[\d.]+|zhiyuan_objv\d|objects365(v\d)?|open-?images(_?v\d)?)_", re.IGNORECASE)
LVIS_KEY = "not_exhaustive_category_ids"
ABOUT_LVIS = (
    "LVIS is scored by COCO's rule here, while its own takes only those categories of an image that were looked for in "
    "it, and 300 detections an image"
)


def place_lvis(content: Content, folder: Path) -> tuple[Path, list[str]]:
    """(the folder that file names are relative to, notes), which differ from `folder` and none for LVIS.

    Its names have the folder of COCO's split in front, `train2017` or `val2017`: a split of LVIS has images of both.
    """
    if not any(LVIS_KEY in image for image in content["images"][:1]):
        return folder, []
    first = content["images"][0]["file_name"].split("/")[0]
    return (folder.parent if (folder.parent / first).is_dir() else folder), [ABOUT_LVIS]
