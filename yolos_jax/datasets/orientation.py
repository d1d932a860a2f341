"""Images that their EXIF tag turns: whether their annotations belong to the stored image or to the upright one."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from yolos_jax.datasets.headers import SWAPS, Header
from yolos_jax.errors import first_few

STORED, TURNED = "stored", "upright"
_ROOM = 0.02  # share of a side that a box may reach out by and still fit


class Vote(NamedTuple):
    """Which reading an image's annotations fit: "stored", "upright", or "" if both or neither."""

    boxes: str
    size: str

    @property
    def both(self) -> str:
        """The boxes', else the size's: many tools write down the stored size of an image that they showed upright."""
        return self.boxes or self.size


@dataclasses.dataclass(frozen=True)
class ExifDecision:
    """How the images of a split that EXIF turns are read, and why."""

    turned: tuple[str, ...] = ()  # file names of the images that EXIF turns
    decided: str = ""  # "stored" or "upright"; "" without such images
    why: str = ""  # a clause for the note about it
    unclear: tuple[str, ...] = ()  # of `turned`, those that fit both readings
    against: tuple[str, ...] = ()  # those that fit the other reading only

    @property
    def upright(self) -> bool:
        """Whether images are turned as they are read."""
        return self.decided == TURNED

    def notes(self, origin: str) -> list[str]:
        """A sentence for the user, if there are such images."""
        if not self.turned:
            return []
        reading = "turned upright" if self.upright else "read as stored"
        text = f"EXIF turns {len(self.turned)} of the images of {origin}; they are {reading}: {self.why}"
        other = "no" if self.upright else "yes"
        if self.why.startswith("nothing"):
            text += f" (such as {self.turned[0]}); if that is wrong, set data.upright={other}"
        if self.against:
            text += f"; but {first_few(self.against)} fit the other reading: set data.upright={other}, or repair them"
        return [text]


def decide(
    setting: str,
    images: Sequence[Mapping[str, Any]],
    headers: Mapping[int, Header],
    annotations: Mapping[int, Sequence[Mapping[str, Any]]],
    measured: Collection[int] = (),
    undecided: str = "",
) -> ExifDecision:
    """Decides how the images of a split that EXIF turns are read.

    Args:
      setting: `data.upright`; "auto" decides by the boxes of all such images, else by their sizes.
      images: entries in COCO's format.
      headers, annotations: by image id; the annotations' boxes must be usable.
      measured: ids of images whose sizes come from their files, so that these are no evidence.
      undecided: "stored" or "upright" if there is no evidence; "" for upright, as prediction and annotation tools do.
    """
    names, votes = [], []
    for image in images:
        header = headers.get(image["id"])
        if header is not None and header.orientation > 1:
            names.append(image["file_name"])
            votes.append(_vote(image, header, annotations.get(image["id"], ()), image["id"] in measured))
    if not votes:
        return ExifDecision()
    by_boxes = Counter(vote.boxes for vote in votes)
    by_size = Counter(vote.size for vote in votes)
    if setting != "auto":
        decided = TURNED if setting == "yes" else STORED
        why = f"data.upright={setting}"
    elif by_boxes[STORED] != by_boxes[TURNED]:
        decided = max(STORED, TURNED, key=by_boxes.__getitem__)
        why = f"the boxes of {by_boxes[decided]} of them fit only that"
    elif by_size[STORED] != by_size[TURNED]:
        decided = max(STORED, TURNED, key=by_size.__getitem__)
        why = f"the annotated sizes of {by_size[decided]} of them are those"
    else:
        decided = undecided or TURNED
        like = "as the other split" if undecided else "as prediction does"
        why = f"nothing in their sizes and boxes tells, so {like}"
    unclear = tuple(name for name, vote in zip(names, votes) if not vote.both)
    against = tuple(name for name, vote in zip(names, votes) if vote.both not in ("", decided))
    return ExifDecision(tuple(names), decided, why, unclear, against)


def turn_sizes(images: Sequence[dict[str, Any]], headers: Mapping[int, Header]) -> None:
    """Exchanges, in place, the stored sizes of images that are read upright.

    Any other size that is wrong stays, to be named when the image is read.
    """
    for image in images:
        header = headers.get(image["id"])
        if header is None or header.orientation not in SWAPS:
            continue
        if header.size == (image["width"], image["height"]):
            image["width"], image["height"] = header.upright_size


def _vote(image: Mapping[str, Any], header: Header, annotations: Sequence[Mapping[str, Any]], measured: bool) -> Vote:
    stored, turned = header.size, header.upright_size
    annotated = image["width"], image["height"]
    if stored == turned or annotated not in (stored, turned):  # a size of neither is named when the image is read
        return Vote("", "")
    fits_stored = all(_is_inside(a["bbox"], stored) for a in annotations)
    fits_turned = all(_is_inside(a["bbox"], turned) for a in annotations)
    boxes = ""
    if fits_stored != fits_turned:
        boxes = STORED if fits_stored else TURNED
    if measured:
        return Vote(boxes, "")
    return Vote(boxes, STORED if annotated == stored else TURNED)


def _is_inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box xywh lies in an image of (width, height), up to what annotators miss."""
    x, y, width, height = box
    return x + width <= size[0] * (1 + _ROOM) + 1 and y + height <= size[1] * (1 + _ROOM) + 1
