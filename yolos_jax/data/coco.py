"""The COCO folder: an annotation file and a folder of pictures per split."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from yolos_jax.data.annotations import Complain, read_annotations, stop, wrong_box
from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.errors import InputError
from yolos_jax.pictures import UnreadableImage, open_rgb

CATEGORIES = ("raw", "contiguous")
MOST_CLASSES = 100_000


class CocoSource:
    """Examples of one split of a COCO folder, in the annotation file's order of images.

    As in the reference: crowds are left out, boxes are clipped to the picture
    and dropped if nothing is left; pictures without boxes stay. How many boxes
    went that way is in `dropped`.

    Args:
      root: the folder.
      split: such as `train2017`: the annotations are `annotations/instances_{split}.json`,
        the pictures lie in `{split}/`.
      num_classes: labels lie in 0..num_classes - 1; 0 derives it from the categories.
      max_images: keep only the first so many images; 0 keeps all.
      categories: "raw" takes category ids as labels, as the reference does;
        "contiguous" numbers the ids 0, 1, ... in ascending order.
      category_ids: the category id of each label, if a model's are to be kept.
      annotations, pictures: other places than those of `split`.
      complain: called with a sentence for each wrong entry, which is then left
        out; by default the first one stops with an `InputError`.

    Attributes:
      num_classes: K.
      category_ids: the category id of every label `0..K-1`.
      label_names: name of each label that the categories list.

    Raises:
      InputError: a folder, file or picture is missing, or an annotation is wrong.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        num_classes: int = 0,
        max_images: int = 0,
        categories: str = "raw",
        category_ids: Sequence[int] | None = None,
        annotations: str | Path = "",
        pictures: str | Path = "",
        complain: Complain = stop,
    ):
        self.root, self.split, self._complain = Path(root), split, complain
        if not (annotations and pictures) and not self.root.is_dir():
            raise InputError(f"the data folder {self.root} does not exist; set --config.data.root.")
        self.annotation_file = Path(annotations or self.root / "annotations" / f"instances_{split}.json")
        self.pictures = Path(pictures or self.root / split)
        if not self.pictures.is_dir():
            raise InputError(f"the folder of pictures {self.pictures} does not exist.")
        content = read_annotations(self.annotation_file, complain)
        names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        self._number(names, num_classes, categories, category_ids)
        self.dropped = {"crowd": 0, "empty": 0}
        self.examples = self._examples(content, max_images, names)
        del self._complain  # so that workers can be sent this object
        if not len(self.examples):
            none = "none of the images it lists can be used" if content["images"] else "it lists no images"
            raise InputError(f"nothing to read in {self.annotation_file}: {none}.")

    def _number(self, names: dict[int, str], num_classes: int, categories: str, ids: Sequence[int] | None) -> None:
        """Decides the label of every category id."""
        if categories not in CATEGORIES:
            raise InputError(f"data.categories is {categories!r}; choose one of {', '.join(CATEGORIES)}.")
        if ids is None:
            if not names or min(names) < 0:
                raise InputError(f"{self.annotation_file} lists no category, or one with a negative id.")
            if categories == "raw" and max(names) >= MOST_CLASSES:
                raise InputError(
                    f"the largest category id of {self.annotation_file} is {max(names)}, which would make as many "
                    "classes; set --config.data.categories=contiguous."
                )
            ids = sorted(names) if categories == "contiguous" else range(max(names) + 1)
            # Raw ids leave gaps; more outputs than ids are allowed (the reference has 91 for COCO's 90).
            ids = [*ids, *range(len(ids), num_classes)] if categories == "raw" else [*ids]
        self.num_classes = num_classes or len(ids)
        if self.num_classes > len(ids):
            raise InputError(
                f"{self.annotation_file} gives {len(ids)} classes where {self.num_classes} are wanted; set "
                "--config.model.num_classes=0 to derive them."
            )
        self.category_ids = tuple(int(i) for i in ids)
        self._label = {category: label for label, category in enumerate(self.category_ids)}
        too_large = [c for c in names if self._label.get(c, -1) >= self.num_classes]
        if too_large:
            raise InputError(
                f"category id {max(too_large)} of {self.annotation_file} gets the label {self._label[max(too_large)]}, "
                f"outside 0..{self.num_classes - 1}; set --config.model.num_classes=0 to derive it from the file."
            )
        self.label_names = {self._label[c]: name for c, name in names.items() if c in self._label}

    def _examples(self, content: dict[str, list], max_images: int, names: dict[int, str]) -> ExampleTable:
        known = {image["id"] for image in content["images"]}
        by_image: dict[int, list] = {}
        for annotation in content["annotations"]:
            if annotation["image_id"] in known:
                by_image.setdefault(annotation["image_id"], []).append(annotation)
            else:
                self._complain(
                    f"{self.annotation_file} annotates image id {annotation['image_id']}, "
                    "which is not among its images."
                )
        present = {p.name for p in self.pictures.iterdir()}
        images = content["images"][: max_images or None]
        found = (self._example(image, by_image.get(image["id"], []), present, names) for image in images)
        return ExampleTable([example for example in found if example is not None])

    def _example(self, image: dict, annotations: list[dict], present: set[str], names: dict) -> Example | None:
        path = self.pictures / image["file_name"]
        if not path.resolve().is_relative_to(self.pictures.resolve()):
            self._complain(f"image id {image['id']} in {self.annotation_file} lies outside {self.pictures}.")
            return None
        # A set of names spares a system call per image; nested file names are looked up.
        if image["file_name"] not in present and not path.is_file():
            self._complain(f"image id {image['id']} is listed in {self.annotation_file} but {path} is absent.")
            return None
        boxes, labels, areas = [], [], []
        for annotation in annotations:
            sentence = wrong_box(annotation, self.annotation_file, names) or self._unknown(annotation)
            if sentence is not None:
                self._complain(sentence)
                continue
            box = clipped_box(annotation["bbox"], image)
            if annotation.get("iscrowd"):
                self.dropped["crowd"] += 1
            elif box[2] <= box[0] or box[3] <= box[1]:
                self.dropped["empty"] += 1
            else:
                boxes.append(box)
                labels.append(self._label[annotation["category_id"]])
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

    def _unknown(self, annotation: dict) -> str | None:
        """A sentence for a category that the model's labels do not have."""
        category = annotation["category_id"]
        if category in self._label:
            return None
        return (
            f"annotation id {annotation.get('id')} of image id {annotation['image_id']} in {self.annotation_file} has "
            f"the category id {category}, which is none of the model's {len(self._label)} categories."
        )

    def read(self, example: Example) -> Image.Image:
        """The RGB picture; `UnreadableImage` if it is damaged or not of the annotated size."""
        image = open_rgb(example.file)
        if image.size != (example.width, example.height):
            turned = image.size[::-1] == (example.width, example.height)
            raise UnreadableImage(
                f"{example.file} (image id {example.image_id}) is {image.size[0]}x{image.size[1]} pixels "
                f"but its annotation says {example.width}x{example.height}"
                + (" (perhaps annotated as turned by its EXIF tag: save it upright)." if turned else ".")
            )
        return image

    def ground_truth(self) -> dict[str, Any]:
        """What evaluation compares with: the content of the annotation file, crowds included."""
        return json.loads(self.annotation_file.read_text(encoding="utf-8"))


def clipped_box(bbox: list[float], image: dict) -> np.ndarray:
    """xywh as annotated -> float32 xyxy inside the picture; float32 before adding, as the reference's tensors do."""
    x, y, w, h = np.array(bbox, np.float32)
    limit = np.array([image["width"], image["height"]] * 2, np.float32)
    return np.clip(np.array([x, y, x + w, y + h], np.float32), 0, limit)
