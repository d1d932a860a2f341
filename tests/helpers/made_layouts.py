"""Writes a generated data set in each layout for tests, independently of the package."""

import functools
import json
import random
from pathlib import Path
from typing import NamedTuple

from PIL import Image

NAMES = ["ant", "bee", "cat"]  # in alphabetical order, because names are sorted in layouts without category numbers


class Box(NamedTuple):
    name: str
    corners: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, starting at 0; x1 and y1 are exclusive


class Picture(NamedTuple):
    stem: str
    size: tuple[int, int]
    boxes: tuple[Box, ...]


Data = dict[str, list[Picture]]  # the images of each split; the splits are train and val


def made(seed: int = 0, train: int = 4, val: int = 3, sides: tuple[int, int] = (40, 90)) -> Data:
    """A random data set; the first image of each split has a box of every category."""
    random_ = random.Random(seed)

    def box(name, width, height):
        x0, y0 = random_.randrange(0, width - 8), random_.randrange(0, height - 8)
        return Box(name, (x0, y0, random_.randint(x0 + 4, width), random_.randint(y0 + 4, height)))

    out = {}
    for split, count in (("train", train), ("val", val)):
        out[split] = []
        for i in range(count):
            size = random_.randint(*sides), random_.randint(*sides)
            names = NAMES if i == 0 else random_.choices(NAMES, k=random_.randint(1, 3))
            out[split].append(Picture(f"{split}{i}", size, tuple(box(name, *size) for name in names)))
    return out


def save(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (sum(size) % 256, 90, 40)).save(path)


def content(pictures, ids, file_name="{}.jpg", sizes=True) -> dict:
    """The content of a COCO file; `ids` maps category names to ids."""
    images, annotations = [], []
    for i, (stem, (width, height), boxes) in enumerate(pictures, 1):
        size = {"width": width, "height": height} if sizes else {}
        images.append({"id": i, "file_name": file_name.format(stem)} | size)
        for name, (x0, y0, x1, y1) in boxes:
            one = {"id": len(annotations) + 1, "image_id": i, "category_id": ids[name], "iscrowd": 0}
            annotations.append(one | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
    categories = [{"id": number, "name": name, "supercategory": "none"} for name, number in ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def dump(path: Path, value) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def coco(root: Path, data: Data) -> Path:
    for split, pictures in data.items():
        for picture in pictures:
            save(root / split / f"{picture.stem}.jpg", picture.size)
        dump(root / "annotations" / f"instances_{split}.json", content(pictures, {"ant": 1, "bee": 3, "cat": 7}))
    return root


def cvat(root: Path, data: Data) -> Path:
    for split, name in (("train", "Train"), ("val", "Validation")):
        for picture in data[split]:
            save(root / "images" / name / "job" / f"{picture.stem}.PNG", picture.size)
        found = content(data[split], {"ant": 1, "bee": 2, "cat": 3}, "job/{}.PNG")
        dump(root / "annotations" / f"instances_{name}.json", found)
    return root


def fiftyone(root: Path, data: Data) -> Path:
    for split, name in (("train", "train"), ("val", "validation")):
        for picture in data[split]:
            save(root / name / "data" / f"{picture.stem}.jpg", picture.size)
        dump(root / name / "labels.json", content(data[split], {"ant": 0, "bee": 1, "cat": 2}))
    return root


def roboflow(root: Path, data: Data) -> Path:
    for split, name in (("train", "train"), ("val", "valid")):
        for picture in data[split]:
            save(root / name / f"{picture.stem}.jpg", picture.size)
        found = content(data[split], {"ant": 1, "bee": 2, "cat": 3})
        for category in found["categories"]:
            category["supercategory"] = "animals"
        found["categories"].insert(0, {"id": 0, "name": "animals", "supercategory": "none"})
        dump(root / name / "_annotations.coco.json", found)
    return root


def _labels(picture: Picture) -> str:
    width, height = picture.size
    lines = []
    for name, (x0, y0, x1, y1) in picture.boxes:
        numbers = (x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height
        lines.append(" ".join([str(NAMES.index(name)), *(f"{v:.9f}" for v in numbers)]))
    return "".join(f"{line}\n" for line in lines)


def yolo(root: Path, data: Data) -> Path:
    """Writes images/train, labels/train and so on, and the names as a list."""
    for split, pictures in data.items():
        (root / "labels" / split).mkdir(parents=True)
        for picture in pictures:
            save(root / "images" / split / f"{picture.stem}.jpg", picture.size)
            if picture.boxes:
                (root / "labels" / split / f"{picture.stem}.txt").write_text(_labels(picture))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames: {NAMES}\n")
    return root


def roboflow_yolo(root: Path, data: Data) -> Path:
    """Writes train/images, train/labels and so on, with paths that start with `../`, and the names as a mapping."""
    for split, name in (("train", "train"), ("val", "valid")):
        (root / name / "labels").mkdir(parents=True)
        for picture in data[split]:
            save(root / name / "images" / f"{picture.stem}.jpg", picture.size)
            (root / name / "labels" / f"{picture.stem}.txt").write_text(_labels(picture))
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    (root / "data.yaml").write_text(f"train: ../train/images\nval: ../valid/images\nnames:\n{names}")
    return root


def _xml(picture: Picture) -> str:
    (width, height), objects = picture.size, ""
    for name, (x0, y0, x1, y1) in picture.boxes:
        corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        objects += f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"
    size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    return f"<annotation><filename>{picture.stem}.jpg</filename>{size}{objects}</annotation>"


def voc(root: Path, data: Data) -> Path:
    year = root / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    for split, pictures in data.items():
        for picture in pictures:
            save(year / "JPEGImages" / f"{picture.stem}.jpg", picture.size)
            (year / "Annotations" / f"{picture.stem}.xml").write_text(_xml(picture))
        (year / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{p.stem}\n" for p in pictures))
        one = "".join(f"{p.stem} {1 if any(b.name == 'ant' for b in p.boxes) else -1}\n" for p in pictures)
        (year / "ImageSets" / "Main" / f"ant_{split}.txt").write_text(one)
    return root


def voc_flat(root: Path, data: Data) -> Path:
    """Writes one folder per split, with XML files next to the images."""
    for split, pictures in data.items():
        for picture in pictures:
            save(root / split / f"{picture.stem}.jpg", picture.size)
            (root / split / f"{picture.stem}.xml").write_text(_xml(picture))
    return root


def _objects(picture: Picture) -> dict:
    boxes = [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in picture.boxes]
    return {"bbox": boxes, "category": [box.name for box in picture.boxes]}


def imagefolder(root: Path, data: Data) -> Path:
    for split, name in (("train", "train"), ("val", "validation")):
        for picture in data[split]:
            save(root / name / f"{picture.stem}.jpg", picture.size)
        lines = [{"file_name": f"{p.stem}.jpg", "objects": _objects(p)} for p in data[split]]
        (root / name / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def dota(root: Path, data: Data) -> Path:
    """Writes the boxes as quadrilaterals that start at a different corner for each object."""
    for split, pictures in data.items():
        (root / split / "labelTxt").mkdir(parents=True)
        for picture in pictures:
            save(root / split / "images" / f"{picture.stem}.png", picture.size)
            lines = ["imagesource:GoogleEarth", "gsd:0.146343590398"]
            for number, (name, (x0, y0, x1, y1)) in enumerate(picture.boxes):
                corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
                turned = corners[number % 4 :] + corners[: number % 4]
                lines.append(" ".join([*(f"{v:.1f}" for corner in turned for v in corner), name, "0"]))
            (root / split / "labelTxt" / f"{picture.stem}.txt").write_text("\n".join(lines))
    return root


LAYOUTS = {
    "coco": coco, "cvat": cvat, "fiftyone": fiftyone, "roboflow": roboflow, "yolo": yolo,
    "roboflow_yolo": roboflow_yolo, "voc": voc, "voc_flat": voc_flat, "imagefolder": imagefolder, "dota": dota,
}  # fmt: skip


def rows(root: Path, data: Data, parquet: bool) -> Path:
    """Writes the data set with the `datasets` package, by `save_to_disk` or as Parquet; rows contain encoded images."""
    import datasets

    of = datasets.Sequence if hasattr(datasets, "Sequence") else datasets.List
    box = {"bbox": of(of(datasets.Value("float32"))), "category": of(datasets.ClassLabel(names=NAMES))}
    features = datasets.Features({"image": datasets.Image(), "objects": box})
    found = datasets.DatasetDict()
    for split, name in (("train", "train"), ("val", "validation")):
        for picture in data[split]:
            save(root.parent / "images" / f"{picture.stem}.jpg", picture.size)
        files = [str(root.parent / "images" / f"{p.stem}.jpg") for p in data[split]]
        objects = [_objects(p) for p in data[split]]
        bytes_ = [{"bytes": Path(file).read_bytes(), "path": None} for file in files]
        found[name] = datasets.Dataset.from_dict({"image": bytes_, "objects": objects}, features=features)
    if parquet:
        (root / "data").mkdir(parents=True)
        for name, split in found.items():
            split.to_parquet(str(root / "data" / f"{name}-00000-of-00001.parquet"))
    else:
        found.save_to_disk(str(root))
    return root


DATASETS = {"saved": functools.partial(rows, parquet=False), "parquet": functools.partial(rows, parquet=True)}
