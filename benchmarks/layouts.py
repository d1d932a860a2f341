"""Measures the CPU time and memory needed to read the annotations of a large data set in each layout.

python -m benchmarks.layouts --images 100000

For each layout, it writes tiny images with 5 boxes each to a temporary folder and reads the annotations in a separate
process. Writing takes longer than reading. `--layouts datasets` needs the package `datasets`.
"""

import argparse
import io
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

NAMES = [f"class{i:02d}" for i in range(20)]
SIZE, BOXES = (64, 48), 5
Row = tuple[str, list[tuple[int, int, int, int, int]]]  # file stem, and the class, x, y, width and height of each box


def rows(count: int) -> Iterator[Row]:
    """Generates the annotations of `count` images."""
    for i in range(count):
        boxes = [((i + k) % 20, (7 * i + k) % 40, (5 * i + k) % 30, 4 + (i + k) % 20, 4 + i % 14) for k in range(BOXES)]
        yield f"{i:08d}", boxes


def coco_content(found: list[Row], first: int = 1) -> str:
    """Returns the text of a COCO annotation file."""
    images: list[dict] = []
    annotations: list[dict] = []
    for i, (stem, boxes) in enumerate(found, 1):
        images.append({"id": i, "file_name": f"{stem}.jpg", "width": SIZE[0], "height": SIZE[1]})
        for c, *box in boxes:
            one = {"id": len(annotations) + 1, "image_id": i, "category_id": c + first, "iscrowd": 0}
            annotations.append(one | {"bbox": box, "area": box[2] * box[3]})
    categories = [{"id": i + first, "name": name} for i, name in enumerate(NAMES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def write_coco(root: Path, found: list[Row]) -> str:
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_train.json").write_text(coco_content(found))
    return "train"


def write_roboflow(root: Path, found: list[Row]) -> str:
    (root / "train").mkdir()
    (root / "train" / "_annotations.coco.json").write_text(coco_content(found))
    return "train"


def write_yolo(root: Path, found: list[Row]) -> str:
    (root / "labels" / "train").mkdir(parents=True)
    for stem, boxes in found:
        lines = (
            f"{c} {(x + w / 2) / 64:.6f} {(y + h / 2) / 48:.6f} {w / 64:.6f} {h / 48:.6f}" for c, x, y, w, h in boxes
        )
        (root / "labels" / "train" / f"{stem}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: images/train\nnames: {NAMES}\n")
    return "images/train"


def write_voc(root: Path, found: list[Row]) -> str:
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem, boxes in found:
        objects = "".join(
            f"<object><name>{NAMES[c]}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for c, x, y, w, h in boxes
        )
        size = "<size><width>64</width><height>48</height><depth>3</depth></size><segmented>0</segmented>"
        text = f"<annotation><folder>VOC</folder><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
        (root / "Annotations" / f"{stem}.xml").write_text(text)
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{stem}\n" for stem, _ in found))
    return "JPEGImages"


def write_imagefolder(root: Path, found: list[Row]) -> str:
    (root / "train").mkdir()
    with open(root / "train" / "metadata.jsonl", "w") as stream:
        for stem, boxes in found:
            objects = {"bbox": [box[1:] for box in boxes], "category": [NAMES[box[0]] for box in boxes]}
            stream.write(json.dumps({"file_name": f"{stem}.jpg", "objects": objects}) + "\n")
    return "train"


def write_datasets(root: Path, found: list[Row]) -> str:
    """Writes with `save_to_disk` from the package `datasets`; the rows contain the encoded images."""
    import datasets
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", SIZE).save(file, "JPEG")
    of = datasets.List
    box = {"bbox": of(of(datasets.Value("float32"))), "category": of(datasets.ClassLabel(names=NAMES))}
    features = datasets.Features({"image": datasets.Image(), "objects": box})
    objects = [{"bbox": [b[1:] for b in boxes], "category": [b[0] for b in boxes]} for _, boxes in found]
    images = [{"bytes": file.getvalue(), "path": None}] * len(found)
    whole = datasets.Dataset.from_dict({"image": images, "objects": objects}, features=features)
    datasets.DatasetDict({"train": whole}).save_to_disk(str(root / "set"))
    for path in (root / "set").iterdir():
        path.rename(root / path.name)
    return ""


writers = (write_coco, write_roboflow, write_yolo, write_voc, write_imagefolder, write_datasets)
WRITERS = {f.__name__[6:]: f for f in writers}


def write_images(root: Path, images: Path, found: list[Row]) -> None:
    """Writes one image and hard-links it under many names."""
    from PIL import Image

    images.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE).save(root / "one.jpg")
    for stem, _ in found:
        if os.stat(root / "one.jpg").st_nlink > 30_000:
            (root / "one.jpg").unlink()
            Image.new("RGB", SIZE).save(root / "one.jpg")
        os.link(root / "one.jpg", images / f"{stem}.jpg")
    (root / "one.jpg").unlink()


def peak() -> int:
    """Peak memory of this process in KiB; on Linux, without the parent's peak, which getrusage includes."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    high = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return high[0] if high else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def read(root: Path) -> None:
    """Reads the training split and prints CPU time and memory."""
    from yolos_jax.datasets.examples import read_split
    from yolos_jax.datasets.opening import find_split
    from yolos_jax.datasets.settings import SplitOptions

    start, before = time.process_time(), peak()
    source = read_split(find_split(root, "train"), SplitOptions(categories="contiguous"))
    used, most = time.process_time() - start, peak()
    found = f"{len(source.examples)} images, {int(source.examples.counts.sum())} boxes"
    print(
        f"{source.layout}: {found}, {used:.1f} s of CPU time, "
        f"peak memory {most / 1024:.0f} MiB ({before / 1024:.0f} MiB before reading)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument(
        "--layouts", nargs="+", choices=WRITERS, default=[name for name in WRITERS if name != "datasets"]
    )
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(args.read)
        return
    found = list(itertools.islice(rows(args.images), args.images))
    for layout in args.layouts:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            images = WRITERS[layout](root, found)
            if images:
                write_images(root, root / images, found)
            print(f"{layout}: ", end="", flush=True)
            subprocess.run([sys.executable, "-m", "benchmarks.layouts", "--read", folder], check=True)


if __name__ == "__main__":
    main()
