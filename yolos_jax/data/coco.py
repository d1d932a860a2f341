"""The COCO folder: `annotations/instances_{split}.json` beside a folder of pictures per split."""

import json
import math
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
        by_image: dict[Any, list] = {}
        for annotation in content["annotations"]:
            by_image.setdefault(annotation["image_id"], []).append(annotation)
        unknown = set(by_image) - {image["id"] for image in content["images"]}
        if unknown:
            raise InputError(
                f"{self.annotation_file} annotates image id {sorted(unknown)[0]}, which is not among its images."
            )
        present = {p.name for p in self.pictures.iterdir()}
        self.examples = [self._example(i, by_image.get(i["id"], []), present, num_classes) for i in images]
        if not self.examples:
            raise InputError(f"{self.annotation_file} lists no images.")

    def _example(self, image: dict, annotations: list[dict], present: set[str], num_classes: int) -> Example:
        path = self.pictures / image["file_name"]
        # A set of names spares a system call per image; nested file names are looked up.
        if image["file_name"] not in present and not path.is_file():
            raise InputError(f"image id {image['id']} is listed in {self.annotation_file} but {path} is absent.")
        boxes, labels, areas = [], [], []
        for annotation in annotations:
            box = self._box(annotation, image, num_classes)
            if annotation.get("iscrowd", 0):
                self.dropped["crowd"] += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                self.dropped["empty"] += 1
            else:
                boxes.append(box)
                labels.append(annotation["category_id"])
                areas.append(annotation.get("area", (box[2] - box[0]) * (box[3] - box[1])))
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
        box, category = annotation.get("bbox"), annotation.get("category_id")
        if not isinstance(box, list) or len(box) != 4 or not all(_is_finite(v) for v in box):
            raise InputError(f"{where} has the box {box}; it must be four finite numbers [x, y, width, height].")
        if box[2] < 0 or box[3] < 0:
            raise InputError(f"{where} has the box {box} with a negative width or height; mend or remove it.")
        if not isinstance(category, int) or not 0 <= category < num_classes:
            raise InputError(
                f"{where} has the category id {category}, outside 0..{num_classes - 1}; "
                f"mend it, or set --config.model.num_classes to at least the largest id + 1."
            )
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


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def read_annotations(path: Path) -> dict[str, list]:
    """Reads and checks a COCO instances file: its three lists and the images' fields."""
    if not path.is_file():
        raise InputError(f"the annotation file {path} does not exist.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"the annotation file {path} is not valid JSON ({error}).") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise InputError(f"the annotation file {path} has no list {key!r}; it must be a COCO instances file.")
    seen = set()
    for image in content["images"]:
        sizes = image.get("width"), image.get("height")
        if not isinstance(image.get("id"), int) or not isinstance(image.get("file_name"), str):
            raise InputError(f"an image of {path} has no whole-number id or no file_name: {str(image)[:200]}.")
        if not all(isinstance(s, int) and s > 0 for s in sizes):
            raise InputError(f"image id {image['id']} in {path} has the size {sizes}; it must be whole pixels above 0.")
        if image["id"] in seen:
            raise InputError(f"image id {image['id']} is listed twice in {path}.")
        seen.add(image["id"])
    for annotation in content["annotations"]:
        if "image_id" not in annotation:
            raise InputError(f"annotation id {annotation.get('id')} in {path} has no image_id.")
    for category in content["categories"]:
        if not isinstance(category.get("id"), int) or "name" not in category:
            raise InputError(f"a category of {path} has no whole-number id or no name: {str(category)[:200]}.")
    return content
