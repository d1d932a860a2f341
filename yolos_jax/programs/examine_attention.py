"""yolos-analyze attention: draws the attention of every token that detected an object."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from yolos_jax.datasets.headers import left_out
from yolos_jax.errors import InputError, make_folder
from yolos_jax.inference.fetching import fetch
from yolos_jax.inference.fonts import missing_note
from yolos_jax.inference.inputs import Input, find
from yolos_jax.inference.outputs import destinations
from yolos_jax.programs.command_line import Parser, say

if TYPE_CHECKING:
    from yolos_jax.inference.detector import Detector
    from yolos_jax.tools.analysis.attention_maps import Seen


def attention() -> None:
    """Draws the attention maps of every DET token that detected an object: each head of one block, and their mean.

    yolos-analyze attention cat.jpg folder/ --checkpoint runs/s --out out/ --rollout
    yolos-analyze attention cat.jpg --checkpoint runs/s200 --compare runs/s300 --out out/
    """
    args = attention_flags()
    images = still_images(args.images)[: args.limit or None]
    names = names_for(images, args.out, args.overwrite)

    from tqdm import tqdm

    from yolos_jax.images.reading import UnreadableImage
    from yolos_jax.inference.compiled import OFF, keep_compiled
    from yolos_jax.inference.detector import Detector
    from yolos_jax.inference.loading import check_there
    from yolos_jax.tools.analysis.attention_maps import look_at

    say(keep_compiled(args.compilation_cache))
    sources = [args.checkpoint, *([args.compare] if args.compare else [])]
    for source in sources:
        check_there(source)
    detectors = [Detector.load(source, args.short_side, args.max_side, 1, OFF) for source in sources]
    for source, detector in zip(sources, detectors):
        check_asked(args, source, detector)
    make_folder(args.out)
    drawn, skipped = 0, []
    for image, name in zip(tqdm(images, "analysing", unit="image"), names):
        try:
            content = fetch(image.name) if image.kind == "address" else image.name
            seen = [look_at(detector, content, (args.layer,), args.rollout) for detector in detectors]
        except UnreadableImage as error:
            skipped.append(str(error))
            continue
        drawn += draw_tokens(seen, args, name)
        if args.arrays:
            write_arrays(seen, args.out / f"{name}.npz")
    if not drawn:
        say(f"no token has a score of {args.threshold} or more; lower --threshold")
    for reason in skipped:
        print(f"skipped: {reason}")
    found = f"{drawn} tokens with a score of at least {args.threshold} in {len(images) - len(skipped)} images"
    print(f"{found}, {len(skipped)} unreadable; written to {args.out}")
    if skipped:
        raise InputError(f"{len(skipped)} of {len(images)} images could not be read, the first: {skipped[0]}")


def attention_flags() -> Any:
    parser = Parser(attention.__doc__)
    text = "images, folders of images, patterns or URLs"
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=text)
    parser.add_detector_flags()
    parser.add_argument("--compare", help="second checkpoint; its tokens for the same objects are drawn below")
    parser.add_argument("--out", required=True, type=Path, help="folder for the figures")
    parser.add_font_flag()
    parser.add_argument("--threshold", type=float, default=0.9, help="minimum score of a token (default 0.9)")
    parser.add_argument(
        "--layer", type=int, default=-1, help="block, counted from 0; negative values count from the last (default -1)"
    )
    parser.add_argument("--head", type=int, nargs="+", help="draw only these heads, counted from 0, without the mean")
    parser.add_argument("--rollout", action="store_true", help="also draw attention rollout over all blocks")
    text = "interpolation between patches: nearest, smooth, or both (default)"
    parser.add_argument("--enlarge", choices=("nearest", "smooth", "both"), default="both", help=text)
    parser.add_argument(
        "--arrays", action="store_true", help="also write the attention values, one .npz file per image"
    )
    parser.add_argument("--limit", type=int, default=0, help="process at most this number of images")
    parser.add_argument("--overwrite", action="store_true", help="replace files from an earlier run")
    text = "cache of compiled programs: auto (the user's cache folder), off, or a folder"
    parser.add_argument("--compilation-cache", default="auto", metavar="WHERE", help=text)
    args = parser.parse()
    if not 0 <= args.threshold <= 1 or args.limit < 0:
        raise InputError("--threshold must be between 0 and 1, and --limit at least 0.")
    return args


def still_images(given: Sequence[str]) -> list[Input]:
    """The still images found by `inference.inputs.find`; `InputError` for videos and cameras."""
    found = find(given)
    for note in found.notes:
        say(note)
    for one in found.inputs:
        if one.moves:
            raise InputError(f"{one.name} is not an image; use yolos-predict for videos and cameras.")
    for note in left_out([one.name for one in found.inputs if one.kind == "image"]):
        say(note)
    return found.inputs


def names_for(images: Sequence[Input], out: Path, overwrite: bool) -> list[str]:
    """The stem of each image's output files; `InputError` if files from an earlier run would be replaced."""
    names = [destination.name for destination in destinations(images)[0]]
    existing = sorted(out.glob("*")) if out.is_dir() and not overwrite else []
    for name in names:
        for path in existing:
            if path.stem == name or path.name.startswith(f"{name}_token"):
                raise InputError(f"{path} already exists; choose another --out, or use --overwrite.")
    return names


def check_asked(args: Any, source: str, detector: "Detector") -> None:
    """Raises `InputError` if a block or head does not exist; prints a note if the checkpoint has no class names."""
    from yolos_jax.tools.analysis.attention_maps import block_of

    block_of(args.layer, detector.config.depth)
    heads = detector.config.heads
    for head in args.head or []:
        if not 0 <= head < heads:
            raise InputError(f"there is no head {head}; the model of {source} has {heads} heads, counted from 0.")
    say(missing_note([*detector.label_names.values(), source], args.font, "--font"))
    if not detector.label_names:
        say(f"the checkpoint {source} has no class names; showing class numbers instead")


def draw_tokens(seen: list["Seen"], args: Any, name: str) -> int:
    """Draws a figure for each token of the first checkpoint that detected an object; returns the number of figures."""
    from yolos_jax.tasks.pictures.plotting import save_figure
    from yolos_jax.tools.analysis.figures import ENLARGEMENTS, attention_figure

    enlarge = list(ENLARGEMENTS) if args.enlarge == "both" else [args.enlarge]
    tokens = seen[0].over(args.threshold)
    partners = same_objects(seen[0], tokens, seen[1], args.threshold) if len(seen) > 1 else None
    for place, token in enumerate(tokens):
        rows = [row_of(seen[0], int(token), args, args.checkpoint)]
        if partners is not None and partners[place] >= 0:
            rows.append(row_of(seen[1], int(partners[place]), args, args.compare))
        elif partners is not None:
            say(f"{name}: the second checkpoint does not detect the object detected by token {token} of the first")
        figure = attention_figure(seen[0].image, rows, enlarge)
        save_figure(figure, args.out / f"{name}_token{token:03d}.png", args.font)
    return len(tokens)


def row_of(seen: "Seen", token: int, args: Any, source: str) -> tuple[str, np.ndarray, list[str], np.ndarray]:
    """A row of panels for `attention_figure`: mean, heads, and rollout."""
    maps = seen.maps()[:, token]
    heads = range(len(maps)) if args.head is None else args.head
    panels = {f"head {head}": maps[head] for head in heads}
    if args.head is None:
        panels = {"mean of the heads": maps.mean(0)} | panels
    if args.rollout:
        panels["rollout"] = seen.rollout_maps()[token]
    title = f"token {token}: {seen.names[token]} {seen.scores[token]:.2f}"
    if args.compare:
        title = f"{Path(source).name}\n{title}"
    return title, np.stack(list(panels.values())), list(panels), seen.boxes[token]


def same_objects(first: "Seen", tokens: np.ndarray, other: "Seen", threshold: float) -> np.ndarray:
    """int `[n]`: for each token of `first`, the token of `other` with the largest IoU; -1 if that is below 0.5.

    Only tokens of `other` above the threshold are considered; each is matched at most once, in order of decreasing IoU.
    """
    from yolos_jax.datasets.voc_metrics import overlaps_with
    from yolos_jax.tools.analysis.confusion import paired

    theirs = other.over(threshold)
    mine, others = first.boxes[tokens].astype(np.float64), other.boxes[theirs].astype(np.float64)
    overlaps = overlaps_with(mine, others)
    rows, columns = paired(overlaps, np.ones(overlaps.shape, bool))
    out = np.full(len(tokens), -1)
    out[rows] = theirs[columns]
    return out


def write_arrays(seen: list["Seen"], path: Path) -> None:
    """Writes the fields of `Seen` for all tokens; the array names of a second checkpoint start with `other_`."""
    arrays: dict[str, Any] = {}
    for prefix, one in zip(("", "other_"), seen):
        arrays |= {
            f"{prefix}attention": one.attention[0], f"{prefix}grid": np.array(one.grid), f"{prefix}boxes": one.boxes,
            f"{prefix}scores": one.scores, f"{prefix}labels": one.labels, f"{prefix}names": np.array(one.names, str),
        }  # fmt: skip
        if one.rollout is not None:
            arrays[f"{prefix}rollout"] = one.rollout
    np.savez_compressed(path, **arrays)
