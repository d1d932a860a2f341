"""Reads Pascal VOC XML files with defusedxml, because they are untrusted. Does not import jax."""

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

MOST_BYTES = 2**26  # maximum size of a file


class Object(NamedTuple):
    """An annotated object."""

    name: str
    box: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax, inclusive, in pixels counted from 1
    difficult: bool


class Record(NamedTuple):
    """The content of an XML file; if it is invalid, `wrong` is a message."""

    file_name: str = ""
    width: int = 0
    height: int = 0
    objects: tuple[Object, ...] = ()
    wrong: str = ""

    def size(self) -> dict[str, int]:
        """Returns the width and height of a COCO image entry; empty if the file does not contain them."""
        return {"width": self.width, "height": self.height} if self.width > 0 and self.height > 0 else {}


@functools.lru_cache(maxsize=8)  # all splits read the same folders, because categories depend on all files
def records_of(folder: str, changed: int) -> dict[str, Record]:
    """Maps relative paths without extension to the content of all XML files in a folder and its subfolders.

    `changed` is the modification time of the folder and is part of the cache key.
    """
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
        raise ValueError(f"the box of {name!r} has xmax < xmin or ymax < ymin")
    return Object(name, corners, (element.findtext("difficult") or "0").strip() not in ("0", "false", "False", ""))  # type: ignore[arg-type]


def _number(element: Element, key: str) -> float:
    text = element.findtext(key) or ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e6:
        raise ValueError(f"{key} is {text[:50]!r}; it must be a number below a million")
    return number
