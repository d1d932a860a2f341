"""Reads VOC's XML files with defusedxml, because they are untrusted. No jax here."""

import functools
import io
import math
import os
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import parse

from yolos_jax.datasets.listing import is_hidden, walk
from yolos_jax.errors import InputError
from yolos_jax.user_files import read_bytes

MOST_BYTES = 2**26  # limit of a file


class Object(NamedTuple):
    """One object of an image."""

    name: str
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax: pixels from 1, inclusive
    difficult: bool


class Record(NamedTuple):
    """The content of an XML file; `wrong` is a message if it is invalid."""

    file_name: str = ""
    width: int = 0
    height: int = 0
    objects: tuple[Object, ...] = ()
    wrong: str = ""

    def size(self) -> dict[str, int]:
        """Width and height under COCO's names; empty if the file has none."""
        return {"width": self.width, "height": self.height} if self.width > 0 and self.height > 0 else {}


@functools.lru_cache(maxsize=8)  # splits share a folder, and the categories come from all of its files
def records_of(folder: str, changed: int) -> dict[str, Record]:
    """The XML files in a folder and below, by relative path without ending; `changed` is its modification time."""
    found: dict[str, Record] = {}
    for at, names in walk(folder):
        inside = os.path.relpath(at, folder)
        for name in (name for name in names if name.endswith(".xml") and not is_hidden(name)):
            stem = name[:-4] if inside == "." else f"{inside}/{name[:-4]}"
            found[stem] = _record(os.path.join(at, name))
    return found


def _record(path: str) -> Record:
    try:
        root = parse(io.BytesIO(read_bytes(path, most=MOST_BYTES))).getroot()
        objects = tuple(_object(each) for each in root.iterfind("object"))
        size: Any = root.find("size")
        width = 0 if size is None else int(_number(size, "width"))
        height = 0 if size is None else int(_number(size, "height"))
        return Record(root.findtext("filename", "").strip(), width, height, objects)
    except InputError as error:
        return Record(wrong=str(error))
    except (ParseError, DefusedXmlException, LookupError, ValueError) as error:  # LookupError: an unknown encoding
        return Record(wrong=f"{path} cannot be read ({' '.join(str(error).split())}); repair or remove it.")


def _object(element: Element) -> Object:
    name, box = (element.findtext("name") or "").strip(), element.find("bndbox")
    if not name or box is None:
        raise ValueError("an object has no name or no bndbox")
    corners = tuple(_number(box, key) for key in ("xmin", "ymin", "xmax", "ymax"))
    if corners[2] < corners[0] or corners[3] < corners[1]:
        raise ValueError(f"the box of {name!r} ends before it begins")
    return Object(name, corners, (element.findtext("difficult") or "0").strip() not in ("0", "false", "False", ""))  # type: ignore[arg-type]


def _number(element: Element, key: str) -> float:
    text = element.findtext(key) or ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6:
        raise ValueError(f"{key} is {text[:50]!r} and must be a number")
    return number
