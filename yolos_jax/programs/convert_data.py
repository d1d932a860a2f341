"""Writes a data set of any layout that is read as a plain COCO folder, its images linked or copied.

python -m yolos_jax.programs.convert_data data/mine --out data/mine_coco

The layouts are those of docs/data.md: Roboflow, ultralytics' YOLO, Pascal VOC, imagefolder, datasets, COCO's kin, TFDS.
Writes OUT/annotations/instances_SPLIT.json and OUT/SPLIT/, for every split; splits with a usual name are called train,
val and test. Images that lie in no files of their own are copied. Nothing of the data set itself is changed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from yolos_jax.datasets.settings import BOXES
from yolos_jax.errors import InputError, check_empty, clear_errors, make_folder
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.programs.command_line import Parser


@clear_errors()
def main() -> None:
    """Converts as the command line says, and prints what was written."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="the data set: a folder, or a data.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, which must be empty or absent")
    parser.add_argument("--splits", nargs="+", default=(), help="splits to write, by the names that they have there")
    parser.add_argument("--copy", action="store_true", help="copy the images; by default they are linked")
    text = "what the numbers of a box are where a person wrote them down, as data.train_boxes says it (default xywh)"
    parser.add_argument("--boxes", default="xywh", choices=BOXES, help=text)
    args = parser.parse()

    from yolos_jax.datasets.writing import names_of, write_split

    check_empty(args.out)
    layout, splits, notes = splits_in(args.data, args.boxes)
    absent = [split for split in args.splits if split not in splits]
    if absent:
        raise InputError(f"{args.data} ({layout}) has no split {absent[0]}; it has {', '.join(splits)}.")
    chosen = list(args.splits or (split for split in splits if "/" not in split))
    print(f"{args.data} is {layout}: {', '.join(splits)}")
    make_folder(args.out)
    for split, name in names_of(chosen).items():
        try:
            done = write_split(splits[split](), name, args.out, args.copy)
        except (InputError, UnreadableImage) as error:
            raise InputError(str(error).replace("data.train_boxes=", "--boxes ")) from error
        notes += (note.split("; set data.")[0] for note in done.notes)  # settings of recipes
        print(f"{split}: {done.images} images, {done.boxes} boxes, as {done.split}")
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    print(f"written: {args.out}")


def splits_in(data: Path, boxes: str) -> tuple[str, dict[str, Callable[[], Any]], list[str]]:
    """The layout of a data set, what makes the source of each of its splits, and notes; `boxes` as in `Rules`."""
    from yolos_jax.datasets.coco import CocoSource
    from yolos_jax.datasets.layouts.recognise import is_datasets, recognise
    from yolos_jax.datasets.rules import Rules
    from yolos_jax.datasets.tfds.dataset import TfdsSource
    from yolos_jax.datasets.tfds.records import find_dataset, splits_of

    directory = None if is_datasets(data) else find_dataset(data)
    if directory:
        of_records = partial(TfdsSource, directory, categories="contiguous")
        return TfdsSource.layout, {split: partial(of_records, split) for split in splits_of(directory)}, []
    layout, openers, notes = recognise(data)
    make = partial(CocoSource, data, categories="contiguous", rules=Rules(boxes=boxes))
    return layout, {split: partial(make, split, opener=opener) for split, opener in openers.items()}, notes


if __name__ == "__main__":
    main()
