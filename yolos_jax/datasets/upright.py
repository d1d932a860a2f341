"""Images that their EXIF tag turns: whether their annotations mean them as stored or upright."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from yolos_jax.images.headers import SWAPS, Header

STORED, TURNED = "stored", "upright"
_ROOM = 0.02  # share of a side that a box may reach out by and still fit
_FEW = 3  # images named
MEASURED = "size_of_file"  # key of an entry whose size was taken from its file, so that it tells nothing: its header
SILENT = "boxes_are_shares"  # key of an entry whose boxes, too, fit however it is turned


class Vote(NamedTuple):
    """What one image's annotation fits: "stored", "upright", or "" where it does not tell."""

    boxes: str
    size: str

    @property
    def both(self) -> str:
        """The boxes', else the size's: many tools write down the stored size of an image that they showed upright."""
        return self.boxes or self.size


@dataclasses.dataclass(frozen=True)
class Turning:
    """What was decided for a data set, and why."""

    turned: tuple[str, ...] = ()  # images that EXIF turns, as they are called
    decided: str = ""  # "stored" or "upright"; "" without such images
    why: str = ""  # how the sentence about it goes on
    unclear: tuple[str, ...] = ()  # of `turned`, those that do not tell by themselves
    against: tuple[str, ...] = ()  # those that fit the other reading only

    @property
    def upright(self) -> bool:
        """Whether images are turned as they are read."""
        return self.decided == TURNED

    def notes(self, origin: str) -> tuple[str, ...]:
        """A sentence for the user, or none."""
        if not self.turned:
            return ()
        reading = "turned upright" if self.upright else "read as stored"
        text = f"EXIF turns {len(self.turned)} of the images of {origin}; they are {reading}: {self.why}"
        other = "no" if self.upright else "yes"
        if self.why.startswith("nothing"):
            text += f" (such as {self.turned[0]}); if that is wrong, set data.upright={other}"
        if self.against:
            text += f"; but {named(self.against)} fit the other reading: set data.upright={other}, or repair them"
        return (text,)


NO_TURNING = Turning()


def decide(
    setting: str,
    images: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    headers: Sequence[Header],
    boxes: Mapping[int, Sequence[Mapping[str, Any]]],
    undecided: str = "",
) -> Turning:
    """How the images of a data set that EXIF turns are meant.

    Args:
      setting: `data.upright`; "auto" decides by the boxes of all such images, else by their sizes.
      images, names, headers: entries in COCO's format, what to call them, and what their files say.
      boxes: annotations by image id; their boxes must be usable.
      undecided: "stored" or "upright" where nothing tells; "" for upright, as prediction and annotation tools do.
    """
    found = [(name, _vote(image, header, boxes.get(image["id"], ()))) for image, name, header in
             zip(images, names, headers) if header.orientation > 1]  # fmt: skip
    if not found:
        return NO_TURNING
    by_boxes, by_size = ({side: sum(vote[i] == side for _, vote in found) for side in (STORED, TURNED)} for i in (0, 1))
    unclear = tuple(name for name, vote in found if not vote.both)
    if setting != "auto":
        decided, why = TURNED if setting == "yes" else STORED, f"data.upright={setting}"
    elif by_boxes[STORED] != by_boxes[TURNED]:
        decided = max(by_boxes, key=by_boxes.__getitem__)
        why = f"the boxes of {by_boxes[decided]} of them fit only that"
    elif by_size[STORED] != by_size[TURNED]:
        decided = max(by_size, key=by_size.__getitem__)
        why = f"the annotated sizes of {by_size[decided]} of them are those"
    else:
        decided, otherwise = undecided or TURNED, "as the other split" if undecided else "as prediction does"
        why = f"nothing in their sizes and boxes tells, so {otherwise}"
    against = tuple(name for name, vote in found if vote.both not in ("", decided))
    return Turning(tuple(name for name, _ in found), decided, why, unclear, against)


def turn_sizes(turning: Turning, images: Sequence[dict], headers: Sequence[Header]) -> list[dict]:
    """The entries with the sizes of the images as they are read.

    A stored size of an image that is read upright is exchanged; any other size that is wrong stays, to be named when
    the image is read.
    """
    if not turning.upright:
        return list(images)
    swap = (h.orientation in SWAPS and h.size == (i["width"], i["height"]) for i, h in zip(images, headers))
    return [i | {"width": i["height"], "height": i["width"]} if s else i for i, s in zip(images, swap)]


def _vote(image: Mapping[str, Any], header: Header, annotations: Sequence[Mapping[str, Any]]) -> Vote:
    stored, turned = header.size, header.size[::-1] if header.orientation in SWAPS else header.size
    if stored == turned or image.get(SILENT):
        return Vote("", "")
    fits = [all(_inside(a["bbox"], size) for a in annotations) for size in (stored, turned)]
    said = image["width"], image["height"]
    size = STORED if said == stored else TURNED if said == turned else ""
    if not size:  # of another image: reading it will say so
        return Vote("", "")
    boxes = "" if fits[0] == fits[1] else STORED if fits[0] else TURNED
    return Vote(boxes, "" if image.get(MEASURED) else size)


def _inside(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box xywh lies in an image of (width, height), up to what annotators miss."""
    x, y, width, height = box
    return x + width <= size[0] * (1 + _ROOM) + 1 and y + height <= size[1] * (1 + _ROOM) + 1


def named(names: Sequence[str], most: int = _FEW) -> str:
    """The first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
