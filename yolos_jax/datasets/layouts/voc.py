"""The Pascal VOC layout: `VOC2007/` with `ImageSets/Main`, or XML files next to the images or in a separate folder."""

import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts.gathering import Gathered
from yolos_jax.datasets.layouts.voc_xml import Record, records_of
from yolos_jax.datasets.listing import folders_in, is_hidden, subfolder
from yolos_jax.datasets.splits import family_of
from yolos_jax.datasets.voc_metrics import voc_metrics
from yolos_jax.errors import first_few
from yolos_jax.images.reading import image_endings
from yolos_jax.user_files import read_head, read_text

NAME = "Pascal VOC"
SNIFF, FEW = 4096, 20  # number of bytes per file, and of files, that are checked to recognise VOC XML


class Part(NamedTuple):
    """All XML files in a folder, or only those in a list of names."""

    xml: Path  # folder of XML files
    images: Path  # folder of images
    chosen: Path | None  # list in ImageSets/Main; None for all XML files


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits; splits of several years with the same name are joined."""
    years = [root, *folders_in(root, "VOC"), *folders_in(root / "VOCdevkit", "VOC")]
    years = [year for year in years if (year / "ImageSets" / "Main").is_dir() and subfolder(year, "Annotations")]
    parts: dict[str, list[Part]] = {}
    for year in years:
        xml = subfolder(year, "Annotations") or year
        for file in sorted((year / "ImageSets" / "Main").glob("*.txt")):
            if not is_hidden(file.name) and _is_list(file, xml):
                part = Part(xml, subfolder(year, "JPEGImages", "images") or year, file)
                parts.setdefault(file.stem, []).append(part)
                if len(years) > 1:
                    parts[f"{year.name}/{file.stem}"] = [part]
    parts = parts or {name: [part] for name, part in _flat(root)}
    everything = {part.xml for group in parts.values() for part in group}
    return {name: partial(read, root, name, group, everything) for name, group in parts.items()}


def read(root: Path, name: str, parts: list[Part], everything: Iterable[Path], complain: Complain) -> Annotations:
    """Reads a split. Category ids are 0, 1, ... in alphabetical order of the names in all XML files of `everything`."""
    records = {folder: records_of(str(folder), os.stat(folder).st_mtime_ns) for folder in everything}
    every = [record for found in records.values() for record in found.values()]
    names = {one.name for record in every for one in record.objects}
    numbers = {name: i for i, name in enumerate(sorted(names))}
    gathered = Gathered(numbers)
    zeros = difficult = 0
    alone: list[str] = []  # images without an XML file
    for part in parts:
        found, files = records[part.xml], _images(part.images)
        alone += [] if part.chosen else sorted(files.keys() - found.keys())
        for stem in _stems(part.chosen) if part.chosen else sorted(found):
            record = found.get(stem, Record(wrong=f"{part.chosen} lists {stem}, which has no XML file in {part.xml}."))
            if record.wrong:
                complain(record.wrong)
                continue
            file = part.images / files.get(stem, record.file_name or f"{stem}.jpg")
            gathered.image(os.path.relpath(file, root), **record.size())
            for one in record.objects:
                zeros += min(one.box[:2]) <= 0
                difficult += one.difficult
                # VOC counts pixels from 1, and the right and bottom coordinates are inclusive.
                left, top, right, bottom = one.box
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                gathered.box(one.name, box, one.difficult, **({"difficult": 1} if one.difficult else {}))
    origin = str(parts[0].chosen or parts[0].xml)
    notes = [f"the split {name} combines {', '.join(str(p.chosen) for p in parts)}"] if len(parts) > 1 else []
    notes += [f"{len(alone)} images in {origin} have no XML file and are skipped: {first_few(alone)}"] if alone else []
    if difficult:
        notes.append(f"{difficult} difficult objects in {origin} are crowds: not used for training, ignored in scoring")
    if zeros:
        notes.append(f"{zeros} boxes in {origin} start at pixel 0, but coordinates are read as 1-based, as in VOC")
    return Annotations(NAME, origin, root, gathered.content, notes, by_spelling=True, own_metrics=voc_metrics)


def _is_list(file: Path, xml: Path) -> bool:
    """Whether a file in ImageSets/Main lists a split whose annotations exist.

    Lists for a single class have a number after each name, so their lines do not match any XML file.
    """
    usual = family_of(file.stem) in ("train", "val")  # missing XML files are reported; they are common only for test
    return usual or any((xml / f"{stem}.xml").is_file() for stem in _stems(file)[:1])


def _stems(file: Path) -> list[str]:
    return [line.strip() for line in read_text(file, "the list of images").splitlines() if line.strip()]


def _images(folder: Path) -> dict[str, str]:
    """Maps file names without extension to file names, for all images in a folder."""
    endings = image_endings()
    found = [os.path.splitext(entry.name) for entry in os.scandir(folder)]
    return {stem: stem + ending for stem, ending in found if ending.lower() in endings and not is_hidden(stem)}


def _flat(root: Path) -> Iterable[tuple[str, Part]]:
    """Returns the splits of a data set without lists: a split for each folder, or a single split with all XML files."""
    inside = [folder for folder in folders_in(root) if family_of(folder.name) and _part(folder)]
    found = [(folder.name, _part(folder)) for folder in inside] or [("all", _part(root))]
    return [(name, part) for name, part in found if part]


def _part(folder: Path) -> Part | None:
    xml = subfolder(folder, "Annotations") or folder
    files = [file for file in sorted(xml.glob("*.xml"))[:FEW] if not is_hidden(file.name) and file.is_file()]
    if not any(re.search(rb"<annotation[\s>]", read_head(file, SNIFF)) for file in files):
        return None
    return Part(xml, subfolder(folder, "JPEGImages", "images") or (folder if xml == folder else xml), None)
