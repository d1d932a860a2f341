"""Writes detections: one JSON file per image, COCO results, YOLO labels or a table. Does not import jax."""

import abc
import csv
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from yolos_jax.errors import InputError
from yolos_jax.inference.detections import Detections
from yolos_jax.inference.inputs import Input

FEW = 3  # maximum number of names in a note


class Destination(NamedTuple):
    """An input and the name of its outputs."""

    input: Input
    name: str  # unique, without an extension

    @property
    def source(self) -> dict[str, Any]:
        """The keys that identify an entry's source: `file`, and `page` for multi-page files."""
        page = self.input.page
        return {"file": self.input.name} | ({"page": page} if page else {})


class Frame(NamedTuple):
    """The position of a frame in a video."""

    frame: int  # starting at 0
    seconds: float  # since the start of the video


class Writer(abc.ABC):
    """Writes detections in one format; its files are complete after `close`.

    Args:
      folder: the output folder.
      names: category names by id.
    """

    SHARED: tuple[str, ...] = ()  # files shared by all inputs

    def __init__(self, folder: Path, names: Mapping[int, str]):
        self._folder = folder

    @classmethod
    def files(cls, destination: Destination) -> list[str]:
        """Names of the files, or folders of frames, that are written for one input."""
        return []

    @abc.abstractmethod
    def add(self, destination: Destination, found: Detections, frame: Frame | None = None) -> None:
        """Writes the detections in an image or in a frame of a video; frames must be added in order."""

    def close(self) -> None:  # noqa: B027  # formats without open files need not implement it
        """Completes all files."""


class JsonList:
    """Writes a list to a JSON file entry by entry, one per line; must be closed."""

    def __init__(self, path: Path):
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        self._file.write("[")
        self._separator = "\n"

    def add(self, value: Any) -> None:
        self._file.write(self._separator + json.dumps(value))
        self._separator = ",\n"

    def close(self) -> None:
        with self._file:
            self._file.write("\n]\n")


class JsonFiles(Writer):
    """`NAME.json` per image: `file`, `page`, and the keys of `Detections.to_dict`; for a video, a list of frames."""

    def __init__(self, folder: Path, names: Mapping[int, str]):
        super().__init__(folder, names)
        self._frames: dict[str, JsonList] = {}

    @classmethod
    def files(cls, destination: Destination) -> list[str]:
        return [f"{destination.name}.json"]

    def add(self, destination: Destination, found: Detections, frame: Frame | None = None) -> None:
        path = self._folder / f"{destination.name}.json"
        values = destination.source | (frame._asdict() if frame else {}) | found.to_dict()
        if frame is None:
            path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
            return
        if destination.name not in self._frames:
            self.close()
            self._frames[destination.name] = JsonList(path)
        self._frames[destination.name].add(values)

    def close(self) -> None:
        while self._frames:
            self._frames.popitem()[1].close()


class Coco(Writer):
    """`results.json`, a COCO results list, and `images.json` with its image ids, file names and categories."""

    SHARED = ("results.json", "images.json")

    def __init__(self, folder: Path, names: Mapping[int, str]):
        self._results, self._path = JsonList(folder / self.SHARED[0]), folder / self.SHARED[1]
        self._images: list[dict[str, Any]] = []
        self._categories = [{"id": number, "name": name} for number, name in sorted(names.items())]

    def add(self, destination: Destination, found: Detections, frame: Frame | None = None) -> None:
        source = destination.source
        image = {"id": len(self._images) + 1, "file_name": source.pop("file")} | source
        image |= frame._asdict() if frame else {}
        self._images.append(image | {"width": found.size[0], "height": found.size[1]})
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()):
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            self._results.add({"image_id": image["id"], "category_id": label, "bbox": xywh, "score": score})

    def close(self) -> None:
        self._results.close()
        content = {"images": self._images, "annotations": [], "categories": self._categories}
        self._path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Yolo(Writer):
    """`NAME.txt` per image, or `NAME/000000.txt` per frame, and `names.yaml`.

    Each line contains category id, centre x, centre y, width, height and score. Boxes are clipped to the image and
    relative to its sides.
    """

    SHARED = ("names.yaml",)

    def __init__(self, folder: Path, names: Mapping[int, str]):
        super().__init__(folder, names)
        text = yaml.safe_dump({"names": dict(sorted(names.items()))}, allow_unicode=True, sort_keys=False)
        (folder / self.SHARED[0]).write_text(text, encoding="utf-8")

    @classmethod
    def files(cls, destination: Destination) -> list[str]:
        return [destination.name if destination.input.moves else f"{destination.name}.txt"]

    def add(self, destination: Destination, found: Detections, frame: Frame | None = None) -> None:
        width, height = found.size
        lines = []
        for label, score, box in zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist()):
            x0, x1 = (min(max(v / width, 0), 1) for v in box[::2])
            y0, y1 = (min(max(v / height, 0), 1) for v in box[1::2])
            numbers = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0, score
            lines.append("{} {:.6f} {:.6f} {:.6f} {:.6f} {:.6f}\n".format(label, *numbers))
        path = self._folder / f"{destination.name}.txt"
        if frame is not None:
            path = self._folder / destination.name / f"{frame.frame:06d}.txt"
            path.parent.mkdir(exist_ok=True)
            if not frame.frame:  # removes files from an earlier, longer video
                for old in path.parent.glob("[0-9]*.txt"):
                    old.unlink()
        path.write_text("".join(lines))


class Table(Writer):
    """`detections.csv`: one row per box, corners in pixels; `frame` and `seconds` for videos, `page` for documents."""

    SHARED = ("detections.csv",)
    COLUMNS = ("file", "frame", "seconds", "width", "height", "label", "name", "score", "x0", "y0", "x1", "y1", "page")

    def __init__(self, folder: Path, names: Mapping[int, str]):
        path = folder / self.SHARED[0]
        self._file = open(path, "w", encoding="utf-8", errors="backslashreplace", newline="")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(self.COLUMNS)

    def add(self, destination: Destination, found: Detections, frame: Frame | None = None) -> None:
        number, seconds = frame or ("", "")
        where = destination.input.name, number, seconds, *found.size
        each = zip(found.labels.tolist(), found.names, found.scores.tolist(), found.boxes.tolist())
        for label, name, score, box in each:
            self._rows.writerow([*where, label, name, score, *box, destination.input.page or ""])

    def close(self) -> None:
        self._file.close()


FORMATS: dict[str, type[Writer]] = {"json": JsonFiles, "coco": Coco, "yolo": Yolo, "csv": Table}


def destinations(inputs: Sequence[Input]) -> tuple[list[Destination], list[str]]:
    """Chooses a unique output name for each input; returns a note about those that differ from the input's name."""
    taken = set[str]()  # in lower case, because some file systems ignore case
    out: list[Destination] = []
    for one in inputs:
        name, number = one.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{one.stem}-{number}"
        taken.add(name.lower())
        out.append(Destination(one, name))
    renamed = [destination for destination in out if destination.name != destination.input.stem]
    if not renamed:
        return out, []
    named = ", ".join(f"{destination.name} for {destination.input.name}" for destination in renamed[:FEW])
    more = f" and {len(renamed) - FEW} more" if len(renamed) > FEW else ""
    inputs_are = f"{len(renamed)} inputs have" if len(renamed) > 1 else "1 input has"
    return out, [f"{inputs_are} the same name as another; the outputs are named {named}{more}"]


def drawn(destination: Destination) -> str:
    """The file name of the drawn copy. Drawing an animation also requires the extra `video`."""
    ending = "mp4" if destination.input.moves else "png"
    return f"{destination.name}.{ending}"


def check_free(
    folder: str | Path,
    wanted: Sequence[Destination],
    writer: type[Writer],
    draw: bool,
    overwrite: bool,
    there: Collection[str] = (),
) -> None:
    """Raises `InputError` if an output already exists and may not be replaced, or is one of the inputs.

    `there` lists additional names, relative to the folder, that are treated as existing.
    """
    there = {*there, *(name.split("/")[0] for name in there)}
    names = list(writer.SHARED)
    for destination in wanted:
        if draw:
            names.append(drawn(destination))
        names += writer.files(destination)
    sources = {Path(d.input.name).resolve() for d in wanted if d.input.kind in ("image", "animation", "video")}
    for name in names:
        path = Path(folder) / name
        if path.resolve() in sources:
            raise InputError(f"{path} is one of the inputs and would be overwritten; choose another --out.")
        if (name in there or path.exists()) and not overwrite:
            raise InputError(f"{str(folder).rstrip('/')}/{name} already exists; use another --out, or --overwrite.")
