"""The WIDER FACE layout: `wider_face_split/wider_face_SPLIT_bbx_gt.txt` and `WIDER_SPLIT/images/`.

For each image, the text file has its name, the number of faces, and a line per face: x, y, width, height in pixels
starting at 0, blur, expression, illumination, invalid, occlusion, pose. An image without faces has one line of zeros.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from yolos_jax.datasets.annotations import Annotations, Complain, OpenAnnotations
from yolos_jax.datasets.layouts.gathering import Gathered, lines_of, numbers_in
from yolos_jax.datasets.listing import subfolder
from yolos_jax.errors import shown

NAME = "WIDER FACE"
FILE = re.compile(r"wider_face_(\w+)_bbx_gt\.txt")
IMAGE = re.compile(r".*\.\w+")
INVALID = 7  # index of the flag for invalid faces in a line


def splits(root: Path) -> dict[str, OpenAnnotations]:
    """Maps split names to functions that open the splits of a folder; empty if it is in a different layout."""
    places = [place for place in (root, subfolder(root, "wider_face_split")) if place and place.is_dir()]
    named = [(FILE.fullmatch(file.name), file) for place in places for file in sorted(place.glob("*_bbx_gt.txt"))]
    return {match[1]: partial(read, root, file, match[1]) for match, file in named if match}


def read(root: Path, file: Path, split: str, complain: Complain) -> Annotations:
    """Reads a split; invalid faces become crowds."""
    outer = subfolder(root, f"WIDER_{split}") or root
    images = subfolder(outer, "images") or outer
    found = Gathered({"face": 1})
    lines = lines_of(file)
    invalid = 0
    for number, line in lines:
        if not IMAGE.fullmatch(line) or numbers_in(line.split()) is not None:
            complain(f"line {number} of {file} is {shown(line)}; it must be the name of an image.")
            continue
        found.image(line)
        for face in _faces(lines, file, complain):
            ignored = face[INVALID] == 1
            found.box("face", face[:4], ignored)
            invalid += ignored
    notes = []
    if invalid:
        notes.append(f"{invalid} invalid faces in {file} are crowds: not used for training, ignored in scoring")
    return Annotations(NAME, str(file), images, found.content, notes, by_spelling=True, boxes="xywh", has_sizes=False)


def _faces(lines: Iterator[tuple[int, str]], file: Path, complain: Complain) -> Iterator[list[float]]:
    """Yields the numbers of each face in an image; `lines` starts with the line after the image name."""
    number, line = next(lines, (0, ""))
    if not line.isdecimal():
        complain(f"line {number} of {file} is {shown(line)}; it must be the number of faces in the image above.")
        return
    for _ in range(max(int(line), 1)):
        number, text = next(lines, (0, ""))
        face = numbers_in(text.split())
        if face is None or len(face) != 10 or min(face[2:4]) < 0:
            where = f"line {number} of {file} is {shown(text)}" if number else f"{file} ends before its last face"
            complain(f"{where}; a face must have ten numbers, starting with x, y, width and height.")
            if not number:
                return
        elif int(line):
            yield face
