"""Images in a folder for each class, as ImageNet is usually kept: `train/n01440764/n01440764_10026.JPEG`."""

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from yolos_jax.datasets.headers import frames_note, read_headers
from yolos_jax.datasets.listing import folders_in, is_hidden
from yolos_jax.datasets.splits import MissingSplit, choose, family_of
from yolos_jax.errors import InputError, check_path, first_few
from yolos_jax.images.reading import open_rgb

ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff")
JPEG = (b".jpg", b".jpeg")
LOOKED = 256  # files at most whose frames are counted
_MOST = 5  # names that a sentence lists


class ClassFolders:
    """One split of a folder of class folders, in the order of names; the folders' names are the classes'.

    Args:
      root: holds a folder for each split, which holds one for each class; or the class folders themselves, which are
        then to train on.
      split: by its name or another usual one for the same.
      max_images: use at most this number, spread evenly over all; 0 for all.
      classes: what the classes must be, and where that comes from; None for whatever is there.

    Raises:
      MissingSplit: there is no such split.
      InputError: there is no such folder, a class folder holds no image, or the classes are others.
    """

    def __init__(
        self, root: str | Path, split: str, max_images: int = 0, classes: tuple[tuple[str, ...], str] | None = None
    ):
        self.folder, self.notes = find_class_split(Path(root), split)
        self.origin = str(self.folder)
        self.names = tuple(folder.name for folder in folders_in(self.folder))
        refuse_other_classes(self.names, self.origin, classes)
        files, labels = [], []
        deeper: list[str] = []
        for label, name in enumerate(self.names):
            entries = list(os.scandir(self.folder / name))
            found = sorted(entry.name for entry in entries if is_image(entry))
            deeper += [f"{name}/{entry.name}" for entry in entries if not is_image(entry) and entry.is_dir()]
            if not found:
                endings = ", ".join(ENDINGS)
                raise InputError(
                    f"the class folder {self.folder / name} holds no image ({endings}); fill or remove it."
                )
            files.append(np.array([os.fsencode(file) for file in found]))
            labels.append(np.full(len(found), label, np.int32))
        if deeper:
            self.notes += (
                f"folders inside class folders of {self.origin} are left out: {first_few(sorted(deeper), _MOST)}",
            )
        # A table of bytes: a million names take a fraction of what a list of them does, in every worker.
        self._files, self._labels = np.concatenate(files), np.concatenate(labels)
        chosen = spread(len(self._labels), max_images)
        self._files, self._labels = self._files[chosen], self._labels[chosen]
        self.notes += tuple(self._frames_note())

    def _frames_note(self) -> list[str]:
        """A note if some images have several frames; of those that may, a few are looked at."""
        endings = np.char.lower(self._files)
        others = np.flatnonzero(~np.logical_or.reduce([np.char.endswith(endings, ending) for ending in JPEG]))
        some = [self.name(index) for index in others[spread(len(others), LOOKED)]]
        of = f" ({len(some)} of {len(others)} files that are no JPEG were looked at)" if len(some) < len(others) else ""
        return frames_note(some, read_headers(some), self.origin + of)

    def __len__(self) -> int:
        return len(self._labels)

    def name(self, index: int) -> str:
        """The path of an image."""
        return str(self.folder / self.names[self._labels[index]] / os.fsdecode(bytes(self._files[index])))

    def read(self, index: int) -> tuple[Image.Image, int]:
        """(an RGB image, its class); `UnreadableImage` if it is damaged or gone."""
        return open_rgb(self.name(index)), int(self._labels[index])

    def fingerprint(self) -> str:
        """A hash of the classes, and of every image's name and class."""
        digest = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        digest.update(b"\0".join(self._files.tolist()))
        digest.update(self._labels.tobytes())
        return digest.hexdigest()[:16]


def find_class_split(root: Path, split: str) -> tuple[Path, tuple[str, ...]]:
    """(the folder of class folders that a split is, notes)."""
    check_path(root)
    if not root.is_dir():
        raise InputError(f"the folder {root} does not exist; set --config.data.root to a folder of class folders.")
    inside = folders_in(root)
    with_images = {folder.name for folder in inside if any(is_image(file) for file in os.scandir(folder))}
    # A folder of folders is a split. One that has images like its neighbours is a class, unless its name is a split's.
    classes = {name for name in with_images if len(with_images) > 1 and name != split and not family_of(name)}
    splits = {folder.name: folder for folder in inside if folder.name not in classes and folders_in(folder)}
    if not splits and with_images:
        splits = {"train": root}
    if not splits:
        raise InputError(f"{root} holds no class folders with images; it must be as train/CLASS/picture.jpg.")
    try:
        name, notes = choose(split, splits, str(root))
    except MissingSplit:
        flat = root / split
        if flat.is_dir() and any(is_image(entry) for entry in os.scandir(flat)):
            sort = "sort them into a folder for each class"
            raise MissingSplit(f"{flat} holds images and no class folders; {sort}.") from None
        raise
    return splits[name], tuple(notes)


def refuse_other_classes(names: tuple[str, ...], origin: str, classes: tuple[tuple[str, ...], str] | None) -> None:
    """`InputError` if the names of classes are not those of `classes`: (names, where they are from)."""
    if classes is None or classes[0] == names:
        return
    wanted, where = classes
    in_both = set(names) & set(wanted)
    more = [name for name in names if name not in in_both]
    less = [name for name in wanted if name not in in_both]
    parts = [f"{first_few(more, _MOST)} only in {origin}"] if more else []
    parts += [f"{first_few(less, _MOST)} only in {where}"] if less else []
    differ = "; ".join(parts) or "the same ones in another order"
    raise InputError(f"the classes of {origin} are not those of {where}: {differ}. Both must have the same classes.")


def spread(count: int, most: int) -> np.ndarray:
    """int64: which of `count` images are used, at most `most` (0 for all), spread evenly over all."""
    return np.linspace(0, count - 1, min(most or count, count)).round().astype(np.int64)


def is_image(entry: os.DirEntry) -> bool:
    """Whether a file is an image by its name; hidden ones are none."""
    return entry.name.lower().endswith(ENDINGS) and not is_hidden(entry.name)
