"""Published data sets in COCO format with different file names, and the special case of LVIS. Does not import jax."""

import re
from pathlib import Path

from yolos_jax.datasets.annotations import Content

# Prefixes of annotation files, followed by the split. In large files, the keys may be too far from both ends to be
# found by `coco_folder`.
FILES = re.compile(r"(lvis_v[\d.]+|zhiyuan_objv\d|objects365(v\d)?|open-?images(_?v\d)?)_", re.IGNORECASE)
LVIS_KEY = "not_exhaustive_category_ids"
ABOUT_LVIS = (
    "LVIS is scored with the COCO metrics here; the LVIS metrics use only the categories that were annotated "
    "exhaustively in an image, and 300 detections per image"
)


def place_lvis(content: Content, folder: Path) -> tuple[Path, list[str]]:
    """Returns (the folder that file names are relative to, notes).

    LVIS file names include the COCO folder, `train2017` or `val2017`, because LVIS splits contain images of both. For
    LVIS, the parent of `folder` is returned.
    """
    if not any(LVIS_KEY in image for image in content["images"][:1]):
        return folder, []
    first = content["images"][0]["file_name"].split("/")[0]
    return (folder.parent if (folder.parent / first).is_dir() else folder), [ABOUT_LVIS]
