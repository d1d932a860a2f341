"""Decides whether annotations of images with an EXIF rotation refer to the stored image or the upright image."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from yolos_jax.datasets.headers import SWAPS, Header
from yolos_jax.errors import first_few

STORED, TURNED = "stored", "upright"
_LIKE = "as in the other split", "as in prediction"  # end of the reason if there is no evidence
_ROOM = 0.02  # tolerance for boxes outside the image, as a fraction of its width or height


class Vote(NamedTuple):
    """The orientation that an image's boxes and annotated size fit: "stored", "upright", or "" if undetermined."""

    boxes: str
    size: str

    @property
    def both(self) -> str:
        """The vote of the boxes, or else of the size: many tools show images upright but record their stored sizes."""
        return self.boxes or self.size


@dataclasses.dataclass(frozen=True)
class ExifDecision:
    """How a split's images with an EXIF rotation are read, and why."""

    turned: tuple[str, ...] = ()  # file names of the images with an EXIF rotation
    decided: str = ""  # "stored" or "upright"; "" without such images
    why: str = ""  # the reason, as a clause for the note
    unclear: tuple[str, ...] = ()  # images in `turned` that fit both orientations
    against: tuple[str, ...] = ()  # images that fit only the other orientation

    @property
    def upright(self) -> bool:
        """Whether images are rotated upright when they are read."""
        return self.decided == TURNED

    def notes(self, origin: str) -> list[str]:
        """Returns a note for the user if there are images with an EXIF rotation."""
        if not self.turned:
            return []
        reading = "rotated upright" if self.upright else "read as stored"
        text = f"{len(self.turned)} images in {origin} have an EXIF rotation; they are {reading}: {self.why}"
        other = "no" if self.upright else "yes"
        if self.why.endswith(_LIKE):
            text += f"; if that is wrong (check {self.turned[0]}, for example), set data.upright={other}"
        if self.against:
            text += (
                f", but the annotations of {first_few(self.against)} fit only the other orientation: set "
                f"data.upright={other}, or repair them"
            )
        return [text]


def decide(
    setting: str,
    images: Sequence[Mapping[str, Any]],
    headers: Mapping[int, Header],
    annotations: Mapping[int, Sequence[Mapping[str, Any]]],
    measured: Collection[int] = (),
    undecided: str = "",
) -> ExifDecision:
    """Decides how a split's images with an EXIF rotation are read.

    Args:
      setting: `data.upright`; "auto" uses the boxes of all such images, or their annotated sizes if the boxes do not
        determine the orientation.
      images: image entries in COCO format.
      headers, annotations: map image ids to headers and to annotations, whose boxes must be valid.
      measured: ids of images whose sizes were read from their files and therefore do not determine the orientation.
      undecided: the orientation if nothing determines it, "stored" or "upright"; "" for upright, as in prediction.
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
        why = f"the boxes of {by_boxes[decided]} of them fit only this orientation"
    elif by_size[STORED] != by_size[TURNED]:
        decided = max(STORED, TURNED, key=by_size.__getitem__)
        why = f"the annotated sizes of {by_size[decided]} of them fit only this orientation"
    else:
        decided = undecided or TURNED
        like = _LIKE[0] if undecided else _LIKE[1]
        why = f"their sizes and boxes do not determine the orientation, so they are read {like}"
    unclear = tuple(name for name, vote in zip(names, votes) if not vote.both)
    against = tuple(name for name, vote in zip(names, votes) if vote.both not in ("", decided))
    return ExifDecision(tuple(names), decided, why, unclear, against)


def turn_sizes(images: Sequence[dict[str, Any]], headers: Mapping[int, Header]) -> None:
    """Swaps width and height in place for images that are annotated with their stored size but read upright.

    Other wrong sizes are not changed and are reported when the image is read.
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
    if stored == turned or annotated not in (stored, turned):  # other sizes are reported when the image is read
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
    """Whether an xywh box is inside an image of size (width, height), with tolerance `_ROOM`."""
    x, y, width, height = box
    return x + width <= size[0] * (1 + _ROOM) + 1 and y + height <= size[1] * (1 + _ROOM) + 1
