"""The COCO layout, `annotations/instances_SPLIT.json`, and the variants of LVIS, CVAT, FiftyOne and Label Studio."""

import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from yolos_jax.datasets.annotations import MOST_BYTES, Annotations, Complain, OpenAnnotations, read_annotations
from yolos_jax.datasets.layouts import published
from yolos_jax.datasets.listing import folders_in, is_hidden, subfolder
from yolos_jax.datasets.splits import FAMILIES, family_of
from yolos_jax.errors import InputError
from yolos_jax.user_files import check_file, reading, refuse_utf16

NAME = "COCO"
INSTANCES = "instances_"
# Other prefixes of annotation files, followed by the name of the split.
BEGINNINGS = re.compile(r"(instances|annotations|coco|voc|bbox|labels)[_-]", re.IGNORECASE)
SNIFF = 1 << 16  # number of bytes at each end of a file that are searched for the keys of a COCO file
KEYS = (b'"images"', b'"annotations"', b'"categories"')


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    if root.is_file():
        known = published.FILES.match(root.name) or _kind_of(root) == "coco"
        return {root.stem: partial(read, root, root.parent)} if known else {}
    found = dict(_fiftyone(root))
    return found | {split: partial(read, file, image_folder(root, split)) for split, file in files(root)}


def read(file: Path, folder: Path, complain: Complain, layout: str = NAME) -> Annotations:
    """Reads an annotation file whose images are in `folder`; raises `InputError` if the folder does not exist."""
    if not published.FILES.match(file.name):  # for LVIS, the folder depends on the content of the file
        check_folder(folder)
    content = read_annotations(file, complain, sizes=False)
    folder, notes = published.place_lvis(content, folder)
    check_folder(folder)
    hidden = {i["id"]: i["file_name"] for i in content["images"] if is_hidden(re.split(r"[/\\]", i["file_name"])[-1])}
    if hidden:
        first, *_ = hidden.values()
        notes.append(f"{len(hidden)} hidden files listed in {file} are skipped (for example {first})")
        content["images"] = [i for i in content["images"] if i["id"] not in hidden]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] not in hidden]
    return Annotations(layout, str(file), folder, content, notes, by_spelling=True, reopens=True)


def check_folder(folder: Path) -> None:
    """Raises `InputError` if the image folder does not exist."""
    if not folder.is_dir():
        raise InputError(f"the image folder {folder} does not exist.")


def image_folder(root: Path, split: str) -> Path:
    """Returns the folder of a split's images: `SPLIT/` or `images/SPLIT/`, ignoring case, or else `images/`.

    Other common names of the split are also tried, such as `train/` for train2017.
    """
    inside = subfolder(root, "images", "data", "JPEGImages")
    names = split, *FAMILIES.get(family_of(split) or "", ())
    named = subfolder(root, *names) or (subfolder(inside, *names) if inside else None)
    return named or inside or (root if family_of(split) is None else root / split)


def files(root: Path) -> Iterator[tuple[str, Path]]:
    """Yields (split, annotation file)."""
    folder = subfolder(root, "annotations")
    inside = sorted(folder.glob("*.json")) if folder else []
    instances = [f for f in inside if f.name.lower().startswith(INSTANCES)]
    if instances:
        yield from ((f.stem[len(INSTANCES) :], f) for f in instances)
        return
    beside = sorted(f for f in root.glob("*.json") if not is_hidden(f.name)) if root.is_dir() else []
    known = [(match, f) for f in (*inside, *beside) if (match := published.FILES.match(f.name))]
    if known:
        yield from ((f.stem[match.end() :], f) for match, f in known)
        return
    named = {BEGINNINGS.sub("", file.stem, count=1): file for file in [*beside, *inside]}
    kinds = {split: _kind_of(file) for split, file in named.items() if family_of(split)}
    if "coco" in kinds.values():  # a damaged file is then also treated as COCO and reported when it is read
        yield from ((split, named[split]) for split, kind in kinds.items() if kind != "json")
    # Label Studio writes one file without splits; any other file must be the only one.
    bare = [f for f in beside if f.name == "result.json"] or (beside + inside)
    if len(bare) == 1 and not family_of(BEGINNINGS.sub("", bare[0].stem, count=1)) and _kind_of(bare[0]) == "coco":
        yield bare[0].stem, bare[0]


def _fiftyone(root: Path) -> Iterator[tuple[str, OpenAnnotations]]:
    """Yields the splits of a FiftyOne export: `data/` and `labels.json` in the folder itself or in its subfolders."""
    for folder in (root, *folders_in(root)):
        labels, images = folder / "labels.json", folder / "data"
        if os.path.lexists(labels) and images.is_dir():
            yield folder.name, partial(read, labels, images, layout="FiftyOne COCO")


def _kind_of(file: Path) -> str:
    """Recognises a file by its beginning and end.

    Returns "coco" for a COCO file, even if truncated, "json" for other JSON content, and "damaged" if it is not JSON.
    Raises `InputError` if the file cannot be read or is UTF-16.
    """
    name = f"the annotation file {file}"
    size = check_file(file, "the annotation file", MOST_BYTES)
    with reading(name), open(file, "rb") as stream:
        start = stream.read(SNIFF)
        stream.seek(max(0, size - SNIFF))
        end = stream.read(SNIFF)
    refuse_utf16(start, name)
    found = sum(key in start or key in end for key in KEYS)
    first = start.lstrip(b"\xef\xbb\xbf \r\n\t")[:1]
    is_whole = end.rstrip().endswith({b"{": b"}", b"[": b"]"}.get(first, b"\0"))
    if first == b"{" and found >= (2 if is_whole else 1):  # a truncated file is reported when it is read
        return "coco"
    return "json" if is_whole else "damaged"
