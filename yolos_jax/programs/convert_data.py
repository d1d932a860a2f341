"""Writes a data set of any layout that is read as a plain COCO folder, its images linked or copied.

python -m yolos_jax.programs.convert_data data/mine --out data/mine_coco

The layouts are those of docs/data.md: Roboflow, ultralytics' YOLO, Pascal VOC, imagefolder, datasets and COCO's kin.
Writes OUT/annotations/instances_SPLIT.json and OUT/SPLIT/, for every split; splits with a usual name are called train,
val and test. Nothing of the data set itself is changed.
"""

from pathlib import Path

from yolos_jax.errors import InputError, check_empty, clear_errors, make_folder
from yolos_jax.programs.command_line import Parser


@clear_errors()
def main() -> None:
    """Converts as the command line says, and prints what was written."""
    parser = Parser(__doc__)
    parser.add_argument("data", type=Path, help="the data set: a folder, or a data.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder to write, which must be empty or absent")
    parser.add_argument("--splits", nargs="+", default=(), help="splits to write, by the names that they have there")
    parser.add_argument("--copy", action="store_true", help="copy the images; by default they are linked")
    args = parser.parse()

    from yolos_jax.data.layouts.convert import names_of, write_split
    from yolos_jax.data.layouts.recognise import recognise
    from yolos_jax.data.sources.coco import CocoSource

    check_empty(args.out)
    layout, splits, notes = recognise(args.data)
    absent = [split for split in args.splits if split not in splits]
    if absent:
        raise InputError(f"{args.data} ({layout}) has no split {absent[0]}; it has {', '.join(splits)}.")
    chosen = list(args.splits or (split for split in splits if "/" not in split))
    print(f"{args.data} is {layout}: {', '.join(splits)}")
    make_folder(args.out)
    for split, name in names_of(chosen).items():
        source = CocoSource(args.data, split, opener=splits[split], categories="contiguous")
        done = write_split(source, name, args.out, args.copy)
        notes += done.notes
        print(f"{split}: {done.images} images, {done.boxes} boxes, as {done.split}")
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
