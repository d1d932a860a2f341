"""Checks a data set before training: summarises it and lists its problems. Does not import jax."""

import dataclasses
import os
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from yolos_jax.data.examples import Example, ExampleTable
from yolos_jax.data.plan import TrainingPlan
from yolos_jax.datasets.annotations import Complain, orphans_of
from yolos_jax.datasets.category_names import on_one_line, plain_name
from yolos_jax.datasets.dataset import DataSet
from yolos_jax.datasets.headers import DARK_HELP, dark_files
from yolos_jax.datasets.listing import BESIDE, LeftOut, images_below
from yolos_jax.errors import InputError, counted, first_few, one_line, shown
from yolos_jax.images.reading import UnreadableImage
from yolos_jax.images.sequence import ceil_div

AREAS = (32**2, 96**2)  # COCO's limits between small, medium and large boxes, in square pixels
TABLE = 20  # up to this number of categories, each has its own row
WIDTH = 110  # maximum characters per line
FEW, MANY = 5, 20  # maximum numbers of examples in a message


class Problem(NamedTuple):
    """A problem: the file to fix, and a message that includes its name."""

    file: str
    sentence: str


@dataclasses.dataclass(frozen=True)
class Split:
    """A split after reading, and all entries of its annotation file, including unusable ones."""

    which: str  # "train" or "val"
    source: DataSet
    ids_by_path: dict[str, list[int]]  # image ids listed for each path
    names: dict[int, str]  # category names by id


def survey_split(which: str, make: Callable[[Complain], DataSet], problems: list[Problem]) -> Split:
    """Reads a split ("train" or "val") and appends the problems of its annotation file to `problems`.

    `make` opens the data set and passes problems to the given function. Raises `InputError` if nothing can be read.
    """
    found: list[str] = []
    try:
        source = make(found.append)
    except InputError as error:
        problems += [Problem(which, one_line(sentence)) for sentence in found]
        left = f"after skipping {counted(len(found), 'invalid entry', 'invalid entries')}, " if found else ""
        keys = ", ".join(f"data.{which}_{key}" for key in ("split", "annotations", "images"))
        raise type(error)(f"{left}{str(error).rstrip('.')} (the {which} split, set by {keys}).") from error
    file, content = source.origin, source.ground_truth()  # its problems are already in `found`
    ids_by_path: dict[str, list[int]] = {}
    for image in content["images"]:
        ids_by_path.setdefault(source.place(image["file_name"]), []).append(image["id"])
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    found += _named_twice(file, names)
    found += _listed_twice(file, ids_by_path, content["annotations"])
    found += _orphans(file, orphans_of(content))
    problems += [Problem(file, one_line(sentence)) for sentence in found]
    return Split(which, source, ids_by_path, names)


def _listed_twice(file: str, ids_by_path: dict[str, list[int]], annotations: list[dict]) -> Iterable[str]:
    for path, ids in ids_by_path.items():
        if len(ids) > 1:
            yield f"the image {path} is listed under the image ids {', '.join(map(str, ids))} in {file}; keep one."
    times = Counter(a["id"] for a in annotations if isinstance(a.get("id"), int | str))
    for number, count in times.items():
        if count > 1:
            yield f"annotation id {number!r} is used by {count} annotations in {file}; renumber them."


def _named_twice(file: str, names: dict[int, str]) -> Iterable[str]:
    """Reports categories that share a name, because label maps by name cannot represent them."""
    by_name: dict[str, list[str]] = {}
    for number, name in sorted(names.items()):
        by_name.setdefault(name, []).append(str(number))
    for name, ids in by_name.items():
        if len(ids) > 1:
            numbers = f"the category ids {', '.join(ids)} in {file} are all named {shown(name)}"
            yield f"{numbers}; give them different names, or remove those without annotations."


def _orphans(file: str, orphans: dict[int, int]) -> Iterable[str]:
    """Reports annotations of unlisted images: one message for each of the first ids, one for all others."""
    for image_id in [*orphans][:FEW]:
        times = counted(orphans[image_id], "annotation")
        yield f"{file} annotates image id {image_id}, which is not among its images ({times}, ignored)."
    others = [*orphans][FEW:]
    if others:
        times = counted(sum(orphans[image_id] for image_id in others), "annotation")
        yield f"{file} also has {times} of {counted(len(others), 'other unlisted image id')} (ignored)."


def category_problems(train: Split, val: Split) -> list[Problem]:
    """Reports validation categories that are missing from train or have a different name there."""
    file = val.source.origin
    other = train.source.origin
    problems = []
    # The ids differ if categories were matched by name.
    by_name = dict(zip(val.source.category_ids, train.source.category_ids))
    for number, name in sorted(val.names.items()):
        number = by_name.get(number, number)
        if plain_name(train.names.get(number, "")) != plain_name(name):
            differs = f"calls {train.names[number]!r}" if number in train.names else "lacks"
            sentence = f"{file} has the category id {number} ({name!r}), which {other} {differs}"
            problems.append(Problem(file, f"{sentence}; both must list the same categories."))
    return problems


def dark_notes(splits: Sequence[Split]) -> list[str]:
    """Notes on 16-bit images that become almost black."""
    full = [split.source for split in splits if not split.source.stretch]
    dark = dark_files(list(dict.fromkeys(e.file for source in full for e in source.examples)))
    held = f"{counted(len(dark), '16-bit image')} would be almost black because of unused high bits: {first_few(dark)}"
    return [f"{held}; {DARK_HELP}"] if dark else []


def turned_lines(split: Split) -> list[str]:
    """Lists a split's images with an EXIF rotation, and those whose annotations contradict the chosen orientation."""
    turning = split.source.exif
    unclear = turning.unclear if len(turning.unclear) < len(turning.turned) else ()
    rows = {
        "have an EXIF rotation": turning.turned,
        "are annotated in the other orientation": turning.against,
        "have annotations that fit both orientations": unclear,
    }
    images = {what: f"{counted(len(files), 'image')} of the {split.which} split" for what, files in rows.items()}
    return [f"{images[what]} that {what}: {first_few(files, MANY)}" for what, files in rows.items() if files]


def image_problems(splits: Sequence[Split]) -> list[Problem]:
    """Decodes every image once; reports corrupted images and those whose size differs from the annotated one."""
    # An image shared by two splits or two ids is decoded once, unless their annotated sizes differ.
    todo = {(e.file, e.width, e.height): (split.source, e) for split in splits for e in split.source.examples}

    def wrong(pair: tuple[DataSet, Example]) -> Problem | None:
        source, example = pair
        try:
            source.read(example)
        except UnreadableImage as error:
            named = f"image id {example.image_id}"
            where = "" if f"({named})" in str(error) else f"{named} in {source.origin}: "
            return Problem(example.file, one_line(f"{where}{error}"))
        return None

    with ThreadPoolExecutor() as pool:
        found = tqdm(pool.map(wrong, todo.values()), "decoding", len(todo), unit="image", mininterval=1.0)
        return [problem for problem in found if problem is not None]


def make_plan(train: Split, make: Callable[[np.ndarray], TrainingPlan], problems: list[Problem]) -> TrainingPlan | None:
    """Plans batches for the images' sizes. If there are too few for one batch, adds a problem and returns None."""
    try:
        return make(train.source.examples.sizes)
    except InputError as error:
        problems.append(Problem(train.source.origin, f"{train.source.origin}: {error}"))
        return None


def notes(splits: Sequence[Split], det_tokens: int) -> list[str]:
    """Observations that are not necessarily problems, one sentence each."""
    found = list(dict.fromkeys(line for split in splits for line in (*split.source.notes, *turned_lines(split))))
    for split in splits[1:]:
        nothing = split.source.nothing_to_score()
        found += [f"there are no boxes to score: {nothing}"] if nothing else []
    for split in splits:
        examples, listed = split.source.examples, sum(map(len, split.ids_by_path.values()))
        if len(examples) < listed:
            found.append(f"{len(examples)} of the {listed} images listed by the {split.which} split are used")
        many = np.flatnonzero(examples.counts > det_tokens)
        if len(many):
            worst = many[np.argsort(-examples.counts[many], kind="stable")][:FEW]
            named = [f"image id {examples.image_ids[i]} ({examples.counts[i]})" for i in worst]
            named += ["..."] if len(many) > len(worst) else []
            images = f"{counted(len(many), 'image')} of the {split.which} split with more boxes"
            found.append(f"{images} than the model's {det_tokens} DET tokens can detect: {', '.join(named)}")
    shared = set.intersection(*(set(split.ids_by_path) for split in splits)) if len(splits) > 1 else set()
    if shared:
        found.append(f"{counted(len(shared), 'image')} listed by both splits, for example {min(shared)}")
    return [one_line(note) for note in found + _unlisted(splits)]


def _unlisted(splits: Sequence[Split]) -> list[str]:
    """Notes on images in the folders that no annotation file lists; splits may share a folder."""
    listed = set().union(*(split.ids_by_path for split in splits))
    found = []
    for folder in dict.fromkeys(os.path.realpath(split.source.image_folder) for split in splits):
        left = LeftOut()
        inside = [os.path.join(folder, name) for name in images_below(Path(folder), left, BESIDE)]
        others = [path for path in inside if path not in listed]
        found += left.note(folder)
        if others:
            images = f"{counted(len(others), 'image')} in {folder}"
            found.append(f"{images} that no annotation file lists, for example {min(others)}")
    return found


def box_sizes(examples: ExampleTable) -> dict[str, int]:
    """Number of small, medium and large boxes by COCO's definition."""
    counts = np.bincount(np.searchsorted(AREAS, examples.areas, "right"), minlength=3)
    return dict(zip(("small", "medium", "large"), counts.tolist()))


def overview(split: Split) -> list[str]:
    """A summary of a split, as lines to print."""
    source, examples = split.source, split.source.examples
    counts, sizes = examples.counts, examples.sizes
    boxes, most = int(counts.sum()), int(counts.argmax())
    shares = (f"{count / max(boxes, 1):.1%} {name}" for name, count in box_sizes(examples).items())
    sides = {"short": sizes.min(1), "long": sizes.max(1)}
    ranges = (f"{name} {x.min()} to {x.max()}, median {np.median(x):g}" for name, x in sides.items())
    common = Counter(map(tuple, sizes.tolist())).most_common(FEW)
    crowds, empty = source.dropped["crowd"], source.dropped["empty"]
    average, largest = f"{boxes / len(counts):.2f} on average", f"{counts[most]} at most"
    rows = {
        "images": f"{len(counts)}, {(counts == 0).sum()} of them without boxes",
        "boxes": f"{boxes}; {counted(crowds, 'crowd')} and {counted(empty, 'empty box', 'empty boxes')} skipped, "
        f"{source.clipped} clipped",
        "boxes per image": f"{average}, {largest} (image id {examples.image_ids[most]})",
        "box sizes": f"{', '.join(shares)} (COCO's definition: below 32x32, below 96x96, and larger)",
        "image sides": f"{'; '.join(ranges)} pixels",
        "frequent sizes": ", ".join(f"{w}x{h} ({n})" for (w, h), n in common),
    }
    title = f"{split.which}: {source.origin} ({source.layout}), images in {source.image_folder}"
    return [title, *_rows(rows), *_categories(source)]


def _categories(source: DataSet) -> list[str]:
    """Every category with its number of boxes: one per row, or in several columns if there are many."""
    by_label = np.bincount(source.examples.labels, minlength=source.num_classes)
    names = [(label, on_one_line(name)) for label, name in sorted(source.label_names.items())]
    widest = max((len(name) for _, name in names), default=0)
    cells = [f"{source.category_ids[i]:>5}{i:>6}{by_label[i]:>7}  {name:<{widest}}" for i, name in names]
    columns = 1 if len(cells) <= TABLE else max(1, WIDTH // (len(cells[0]) + 2))
    head = "  ".join([f"{'id':>5}{'label':>6}{'boxes':>7}  {'name':<{widest}}"] * columns)
    height = ceil_div(len(cells), columns)  # ids are sorted down the columns
    lines = [head, *("  ".join(cells[row::height]) for row in range(height))]
    unused = [name for label, name in names if not by_label[label]]
    total = _rows({"categories": f"{len(names)}, {len(unused)} of them without boxes"})
    return [*total, *(f"  {line.rstrip()}" for line in lines), *_rows({"never used": ", ".join(unused)})]


def plan_lines(plan: TrainingPlan) -> list[str]:
    """A description of a plan's first epoch, as lines to print."""
    left = f"{counted(plan.dropped, 'image')} dropped; {plan.padding():.2%} of the patches are padding"
    steps = f"{plan.steps_per_epoch} steps of {plan.batch_size} images per epoch, {left}"
    buckets = ", ".join(f"{edge}: {n}" for edge, n in bucket_use(plan).items())
    return _rows({"training plan": steps, "buckets": f"{buckets} (patches: number of images in the first epoch)"})


def bucket_use(plan: TrainingPlan) -> dict[int, int]:
    """Number of images of the first epoch in each bucket, by the bucket's number of patches."""
    tokens = plan.epoch(0).tokens
    return {int(edge): int((tokens == edge).sum()) * plan.batch_size for edge in plan.edges}


def verdict(problems: Sequence[Problem]) -> str:
    """The last line to print: the number of problems."""
    count = f"{counted(len(problems), 'problem')} in {counted(len({p.file for p in problems}), 'file')}"
    return count if problems else "no problems found"


def _rows(values: dict[str, str]) -> list[str]:
    """Formats two columns and wraps the second one; skips empty values."""
    wrapper = textwrap.TextWrapper(WIDTH, subsequent_indent=" " * 18, break_on_hyphens=False)
    lines = []
    for key, value in values.items():
        wrapper.initial_indent = f"  {key:<16}"
        lines += wrapper.wrap(value)
    return lines
