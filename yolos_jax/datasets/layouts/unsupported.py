"""Recognises unsupported layouts and suggests conversions. Does not import jax."""

import itertools
from pathlib import Path

from yolos_jax.datasets.listing import is_hidden
from yolos_jax.user_files import read_head

SNIFF, FILES = 1 << 16, 50  # maximum number of bytes to read per file, and of files to check
COMMAND = "pip install {package}, then `{command}`"
# (file extension, words in the file, name of the format, suggested action)
KNOWN = (
    (".xml", ("<annotations", "<image "), "CVAT XML for images", "export the task from CVAT as COCO 1.0"),
    (".json", ('"shapes"', '"imagePath"'), "labelme JSON", COMMAND.format(
        package="labelme2coco", command="labelme2coco {root} --category_id_start 1")),
    (".json", ('"_via_img_metadata"',), "a VIA project", "export the annotations from VIA as COCO"),
    (".json", ('"regions"', '"shape_attributes"'), "VIA JSON", "export the annotations from VIA as COCO"),
    (".json", ('"rectanglelabels"',), "Label Studio JSON", COMMAND.format(
        package="label-studio-converter", command="label-studio-converter export -i {file} -o {root}/coco -f COCO")),
    (".json", ('"coordinates"', '"label"', '"image"'), "CreateML JSON", "export the data as COCO instead"),
    (".csv", ("ImageID", "LabelName", "XMin"), "Open Images CSV", COMMAND.format(
        package="fiftyone", command="fiftyone convert --input-dir {root} --input-type fiftyone.types."
        "OpenImagesV7Dataset --output-dir {root}-coco --output-type fiftyone.types.COCODetectionDataset")),
    (".csv", ("file_name",), "imagefolder metadata as CSV", "write it as metadata.jsonl, one JSON object per line"),
    (".data", ("names", "train"), "a darknet .data file", "write its names and folders into a data.yaml"),
    (".tfrecord", (), "TFRecord files", "export the data as COCO instead"),
    (".tar", (), "WebDataset shards", "load them with the `datasets` package and call save_to_disk"),
    (".zip", (), "an archive", "unpack it"),
)  # fmt: skip


def explain(root: Path, names: list[str]) -> str:
    """Returns a message about a folder with an unsupported layout: its likely format, and how to convert it.

    Args:
      root: the folder.
      names: the supported layouts.
    """
    for file in itertools.islice(_files(root), FILES):
        head = read_head(file, SNIFF).decode("utf-8", "replace")
        for ending, words, kind, remedy in KNOWN:
            if file.name.lower().endswith(ending) and all(word in head for word in words):
                what = f"{root} contains {kind} ({file.name}), which is not supported"
                return f"{what}; {remedy.format(root=root, file=file)}."
    if root.is_dir() and any(root.glob("labels/**/*.txt")):
        lacks = f"{root} has YOLO labels in labels/ but no file with the class names"
        return f"{lacks}; write a data.yaml with train: images/train, val: images/val and names: [...]."
    inside = sorted(f.name for f in root.iterdir() if not is_hidden(f.name))[:8] if root.is_dir() else []
    holds = "it is empty" if root.is_dir() else "it is a file"
    if inside:
        holds = f"it contains {', '.join(inside)}"
    return (
        f"{root} is not in any of the supported layouts ({', '.join(names)}); {holds}. "
        "The COCO layout has annotations/instances_train.json and train/, and the same for val."
    )


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found = itertools.chain.from_iterable(root.glob("*/" * depth + "*") for depth in range(3))
    endings = tuple(ending for ending, *_ in KNOWN)
    named = (f for f in found if f.name.lower().endswith(endings) and not is_hidden(f.name))
    return [f for f in itertools.islice(named, FILES) if f.is_file()]
