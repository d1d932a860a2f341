"""Reads images from one folder per class, as in ImageNet: `train/n01440764/n01440764_10026.JPEG`."""

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.datasets.category_names import plain_name
from yolos_jax.datasets.headers import frames_note, read_headers
from yolos_jax.datasets.listing import LeftOut, described, ending_of, folders_in, images_below, is_hidden
from yolos_jax.datasets.splits import MissingSplit, choose, family_of
from yolos_jax.errors import InputError, check_path, counted, first_few
from yolos_jax.images.reading import image_endings, open_rgb

JPEG = (b".jpg", b".jpeg", b".jfif", b".jpe")
LOOKED = 256  # maximum number of files to check for multiple frames
_MOST = 5  # maximum number of names in a message


class ClassFolders:
    """One split of a folder of class folders. Classes are named after their folders and sorted by name.

    Images in subfolders of a class folder also belong to that class.

    Args:
      root: a folder of splits, each of which has one folder per class, or a folder of class folders, which is used as
        the training split.
      split: the name of the split, or another common name for it.
      max_images: maximum number of images, spread evenly over the split; 0 for all.
      classes: class names and their source; classes without images are allowed. If None, classes are derived from the
        folders, and each folder must contain images.

    Raises:
      MissingSplit: the split does not exist.
      InputError: the folder does not exist, a class folder has no images, or a class is not in `classes`.
    """

    def __init__(
        self, root: str | Path, split: str, max_images: int = 0, classes: tuple[tuple[str, ...], str] | None = None
    ):
        self.folder, notes = find_class_split(Path(root), split)
        self.origin = str(self.folder)
        refuse_broken_links(self.folder)
        present = [folder.name for folder in folders_in(self.folder)]
        self.names, labels_of, more = match_classes(present, self.origin, classes)
        self._folders = dict(zip(labels_of, present))
        left = _strays(self.folder)
        files, labels = [], []
        for label, name in sorted(self._folders.items()):
            inside = LeftOut()
            found = list(images_below(self.folder / name, inside))
            if not found and classes is None:
                raise InputError(_no_image(self.folder / name, inside))
            left.update(inside)
            files += found
            labels += [label] * len(found)
        if not files:
            raise InputError(_no_image(self.folder, left))
        notes += [*more, *lacking_note(self.names, set(labels), self.origin), *left.note(self.folder)]
        self.notes = (*notes, *self._deeper_note(files, labels))
        # For a million names, an array of bytes needs far less memory in each worker than a list.
        chosen = spread(len(labels), max_images)
        self._files = np.array([os.fsencode(file) for file in files])[chosen]
        self._labels = np.array(labels, np.int32)[chosen]
        self.notes += tuple(self._frames_note())

    def _frames_note(self) -> list[str]:
        """Returns a note if some images have several frames; checks at most `LOOKED` files."""
        endings = np.char.lower(self._files)
        others = np.flatnonzero(~np.logical_or.reduce([np.char.endswith(endings, ending) for ending in JPEG]))
        some = [self.name(index) for index in others[spread(len(others), LOOKED)]]
        of = f" ({len(some)} of {len(others)} files that are not JPEG were checked)" if len(some) < len(others) else ""
        return frames_note(some, read_headers(some), self.origin + of)

    def _deeper_note(self, files: Sequence[str], labels: Sequence[int]) -> list[str]:
        deeper = [(file, label) for file, label in zip(files, labels) if os.sep in file]
        if not deeper:
            return []
        file, label = deeper[0]
        lie = f"{self.origin} has {counted(len(deeper), 'image')} in subfolders of class folders"
        return [f"{lie} (for example {self._folders[label]}/{file}); they belong to the class of the outer folder"]

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """Returns the path of an image."""
        return str(self.folder / self._folders[self._labels[index]] / os.fsdecode(bytes(self._files[index])))

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Returns (an RGB image, its class); raises `UnreadableImage` if it is damaged or missing."""
        return open_rgb(self.name(index)), int(self._labels[index])

    def fingerprint(self) -> str:
        """Returns a hash of the class names and of every image's name and class."""
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(b"\0".join(self._files.tolist()))
        digest.update(self._labels.tobytes())
        return digest.hexdigest()[:16]


def find_class_split(root: Path, split: str) -> tuple[Path, list[str]]:
    """Returns (the folder with a split's class folders, notes)."""
    check_path(root)
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist; set --config.data.root to a folder of class folders.")
    inside = folders_in(root)
    with_images = {folder.name for folder in inside if _has_images(folder)}
    # A folder of folders is a split. But if it and a sibling contain images, it is a class unless named like a split.
    classes = {name for name in with_images if len(with_images) > 1 and name != split and not family_of(name)}
    splits = {folder.name: folder for folder in inside if folder.name not in classes and folders_in(folder)}
    unusual = split not in splits and not any(map(family_of, splits))
    wrapped = _wrapped(splits.values()) if unusual else None
    if wrapped is not None:
        raise InputError(f"{root} contains no splits but {wrapped} does; set --config.data.root={wrapped}.")
    others = sorted(with_images - splits.keys())
    # A root named train is itself the split, even if its class folders contain only folders.
    if unusual and (others or (splits and family_of(root.name))):
        splits, others = {"train": root}, []
    if not splits:
        raise InputError(f"{root} contains no class folders with images; use the layout train/CLASS/image.jpg.")
    try:
        name, notes = choose(split, splits, str(root))
    except MissingSplit as error:
        if _has_images(root / split):
            sort = "sort them into a folder for each class"
            raise MissingSplit(f"{root / split} contains images but no class folders; {sort}.") from None
        if unusual and family_of(split) == "train":
            text = str(error).removesuffix(".")
            raise MissingSplit(f"{text}; if these are classes, move them into {root / split}.") from None
        raise
    if others:
        notes.append(f"image folders in {root} that are not splits are skipped: {first_few(others, _MOST)}")
    return splits[name], notes


def _wrapped(folders: Iterable[Path]) -> Path | None:
    """Returns the first of these folders and their subfolders that contains splits with common names."""
    for outer in folders:
        for folder in (outer, *folders_in(outer)):
            if any(family_of(each.name) and folders_in(each) for each in folders_in(folder)):
                return folder
    return None


def _has_images(folder: Path) -> bool:
    """Whether a folder directly contains an image."""
    endings = image_endings()
    return folder.is_dir() and any(ending_of(e.name) in endings and not is_hidden(e.name) for e in os.scandir(folder))


def _strays(folder: Path) -> LeftOut:
    """Returns the files and hidden folders next to the class folders of a split."""
    left, endings = LeftOut(), image_endings()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            left.add(entry.path, "hidden folder" if os.path.isdir(entry.path) else "")
        elif not os.path.isdir(entry.path):
            left.add(entry.path, "stray image" if ending_of(entry.name) in endings else "")
    return left


def _no_image(folder: Path, left: LeftOut) -> str:
    others = f" ({described(left.kinds)})" if left.kinds else ""
    return f"the class folder {folder} contains no images that Pillow can read{others}; add images or remove it."


def match_classes(
    names: Sequence[str], origin: str, classes: tuple[tuple[str, ...], str] | None
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Matches class names with `classes`, a pair of class names and their source.

    A name without an exact match may differ in case, spaces, `-` and `_` if only one class fits. Raises `InputError`
    if a name matches no class.

    Returns:
      The class names, the label of each of `names`, and notes.
    """
    if classes is None:
        return tuple(names), list(range(len(names))), []
    wanted, where = classes
    label_of = {name: label for label, name in enumerate(wanted)}
    spelled: dict[str, list[int]] = {}  # labels without an exact match
    for name in label_of.keys() - set(names):
        spelled.setdefault(plain_name(name), []).append(label_of[name])
    found = {name: label_of[name] for name in names if name in label_of}
    others = [name for name in names if name not in found]
    for name in others:
        labels = spelled.pop(plain_name(name), [])
        if len(labels) == 1:
            found[name] = labels[0]
    unknown = [name for name in others if name not in found]
    if unknown:
        lacking = [name for label, name in enumerate(wanted) if label not in found.values()]
        absent = f" (not in {origin}: {first_few(lacking, _MOST)})" if lacking else ""
        number = counted(len(unknown), "class", "classes")
        many = f"{origin} has {number} that {where} lacks: {first_few(unknown, _MOST)}"
        raise InputError(f"{many}; rename or remove them{absent}.")
    pairs = [f"{name!r} as {wanted[found[name]]!r}" for name in others]
    notes = [f"classes in {origin} are matched despite different spelling: {first_few(pairs)}"] if pairs else []
    return tuple(wanted), [found[name] for name in names], notes


def lacking_note(names: Sequence[str], labels: Collection[int], origin: str) -> list[str]:
    """Returns a note about classes without images, if there are any."""
    lacking = [name for label, name in enumerate(names) if label not in labels]
    if not lacking:
        return []
    number = f"{len(lacking)} of the {counted(len(names), 'class', 'classes')}"
    return [f"{origin} has no images for {number} (excluded from the score): {first_few(lacking, _MOST)}"]


def refuse_broken_links(folder: Path) -> None:
    """Raises `InputError` for a broken or circular link in a folder, because its class would be missing."""
    links = [entry.path for entry in os.scandir(folder) if entry.is_symlink() and not is_hidden(entry.name)]
    broken = [path for path in sorted(links) if not os.path.exists(path)]
    if broken:
        raise InputError(f"{first_few(broken)}: broken or circular link; remove or repair it.")


def spread(count: int, most: int) -> np.ndarray:
    """Returns int64 indices of at most `most` of `count` images, evenly spread; a `most` of 0 selects all images."""
    return np.linspace(0, count - 1, min(most or count, count)).round().astype(np.int64)
