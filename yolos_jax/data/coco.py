"""The COCO folder: `annotations/instances_{split}.json` beside a folder of pictures per split."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.data.examples import Example
from yolos_jax.errors import InputError
from yolos_jax.pictures import UnreadableImage, open_rgb


class CocoSource:
    """Examples of one split of a COCO folder, in the annotation file's order of images.

    As in the reference: crowds are left out, boxes are clipped to the picture
    and dropped if nothing is left; pictures without boxes stay. How many boxes
    went that way is in `dropped`.

    Args:
      root: the folder.
      split: such as `train2017`; names the annotation file and the folder of pictures.
      num_classes: category ids must lie in 0..num_classes - 1.
      max_images: keep only the first so many images; 0 keeps all.

    Raises:
      InputError: a folder, file or picture is missing, or an annotation is wrong.
    """

    def __init__(self, root: str | Path, split: str, num_classes: int, max_images: int = 0):
        self.root, self.split = Path(root), split
        if not self.root.is_dir():
            raise InputError(f"the data folder {self.root} does not exist; set --config.data.root.")
        self.annotation_file = self.root / "annotations" / f"instances_{split}.json"
        self.pictures = self.root / split
        if not self.pictures.is_dir():
            raise InputError(f"the folder of pictures {self.pictures} does not exist.")
        content = read_annotations(self.annotation_file)
        images = content["images"][: max_images or None]
        self.label_names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        self.dropped = {"crowd": 0, "empty": 0}
        by_image: dict[int, list] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        unknown = set(by_image) - {image["id"] for image in content["images"]}
        if unknown:
            raise InputError(
                f"{self.annotation_file} annotates image id {min(unknown, key=str)!r}, which is not among its images."
            )
        present = {p.name for p in self.pictures.iterdir()}
        self.examples = [self._example(i, by_image.get(i["id"], []), present, num_classes) for i in images]
        if not self.examples:
            raise InputError(f"{self.annotation_file} lists no images.")

    def _example(self, image: dict, annotations: list[dict], present: set[str], num_classes: int) -> Example:
        path = self.pictures / image["file_name"]
        if len(image["file_name"]) > 1000 or not path.resolve().is_relative_to(self.pictures.resolve()):
            raise InputError(f"image id {image['id']} in {self.annotation_file} lies outside {self.pictures}.")
        # A set of names spares a system call per image; nested file names are looked up.
        if image["file_name"] not in present and not path.is_file():
            raise InputError(f"image id {image['id']} is listed in {self.annotation_file} but {path} is absent.")
        boxes, labels, areas = [], [], []
        for annotation in annotations:
            box = self._box(annotation, image, num_classes)
            if annotation.get("iscrowd"):
                self.dropped["crowd"] += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                self.dropped["empty"] += 1
            else:
                boxes.append(box)
                labels.append(annotation["category_id"])
                area = annotation.get("area")
                areas.append((box[2] - box[0]) * (box[3] - box[1]) if area is None else area)
        return Example(
            image_id=image["id"],
            file=str(path),
            width=image["width"],
            height=image["height"],
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            labels=np.array(labels, np.int32),
            area=np.array(areas, np.float32),
        )

    def _box(self, annotation: dict, image: dict, num_classes: int) -> np.ndarray:
        """The clipped xyxy box; `InputError` for numbers that make no sense."""
        where = f"annotation id {annotation.get('id')} of image id {image['id']} in {self.annotation_file}"
        box, category, area = annotation.get("bbox"), annotation.get("category_id"), annotation.get("area")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(v) for v in box):
            raise InputError(f"{where} has the box {_short(box)}; it must be 4 finite numbers [x, y, width, height].")
        if box[2] < 0 or box[3] < 0:
            raise InputError(f"{where} has the box {box} with a negative width or height; mend or remove it.")
        if area is not None and (not _is_number(area) or area < 0):
            raise InputError(f"{where} has the area {_short(area)}; it must be a finite number of at least 0.")
        if annotation.get("iscrowd") not in (None, 0, 1):
            raise InputError(f"{where} has iscrowd {_short(annotation['iscrowd'])}; it must be 0 or 1.")
        if type(category) is not int or not 0 <= category < num_classes:
            raise InputError(
                f"{where} has the category id {_short(category)}, outside 0..{num_classes - 1}; "
                f"mend it, or set --config.model.num_classes to at least the largest id + 1."
            )
        if category not in self.label_names:
            raise InputError(f"{where} has the category id {category}, which its categories lack.")
        # float32 before adding, as the reference's tensors do
        x, y, w, h = np.array(box, np.float32)
        limit = np.array([image["width"], image["height"]] * 2, np.float32)
        return np.clip(np.array([x, y, x + w, y + h], np.float32), 0, limit)

    def read(self, example: Example) -> Image.Image:
        """The RGB picture; `UnreadableImage` if it is damaged or not of the annotated size."""
        image = open_rgb(example.file)
        if image.size != (example.width, example.height):
            raise UnreadableImage(
                f"{example.file} (image id {example.image_id}) is {image.size[0]}x{image.size[1]} pixels "
                f"but its annotation says {example.width}x{example.height}."
            )
        return image


def _is_number(value: Any) -> bool:
    """A finite number that float32 can hold."""
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) < 1e30


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 200 else text[:200] + "..."


def read_annotations(path: Path) -> dict[str, list]:
    """Reads and checks a COCO instances file: its three lists and their entries' ids and sizes."""
    if not path.is_file():
        raise InputError(f"the annotation file {path} does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the annotation file {path} is not valid JSON ({error}).") from error
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise InputError(f"the annotation file {path} has no list of {key}; it must be a COCO instances file.")
    for image in content["images"]:
        sizes = image.get("width"), image.get("height")
        if type(image.get("id")) is not int or not isinstance(image.get("file_name"), str):
            raise InputError(f"an image of {path} has no whole-number id or no file_name: {_short(image)}.")
        if not all(type(s) is int and 0 < s < 10**6 for s in sizes):
            raise InputError(
                f"image id {image['id']} in {path} has the size {_short(sizes)}; it must be whole pixels above 0."
            )
    for annotation in content["annotations"]:
        if type(annotation.get("image_id")) is not int:
            raise InputError(
                f"annotation id {_short(annotation.get('id'))} in {path} has no whole-number image_id "
                f"({_short(annotation.get('image_id'))})."
            )
    for category in content["categories"]:
        if type(category.get("id")) is not int or "name" not in category:
            raise InputError(f"a category of {path} has no whole-number id or no name: {_short(category)}.")
    for key in ("images", "categories"):
        ids = [entry["id"] for entry in content[key]]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"id {twice} is listed twice among the {key} of {path}.")
    return content
