"""The presets for `data.augment`: operations that are added to a recipe's augmentation."""

import dataclasses

from yolos_jax.data.augment import Operation, Pipeline
from yolos_jax.images.sequence import ceil_div
from yolos_jax.tasks.augmentation.colour import ENHANCED, Blur, Factor, Greyscale, Hue
from yolos_jax.tasks.augmentation.shape import QuarterTurn, VerticalFlip, Zoom

MOST_SMALLER = 20


@dataclasses.dataclass(frozen=True)
class Preset:
    """Operations that are added to a pipeline."""

    shapes: tuple[Operation, ...] = ()  # applied before the recipe's flip and crop
    colours: tuple[Operation, ...] = ()  # applied after the resize, when there are fewer pixels to process
    smallest: float = 1.0  # smallest added short side / the recipe's smallest; a value below 1 makes objects smaller

    def joined(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the preset's operations added."""
        resize = pipeline.resize
        sides = smaller_sides(resize.short_sides, self.smallest, resize.patch) + resize.short_sides
        wider = dataclasses.replace(resize, short_sides=sides)
        return Pipeline(wider, (*self.shapes, *pipeline.before), (*pipeline.after, *self.colours))


def smaller_sides(sides: tuple[int, ...], share: float, patch: int) -> tuple[int, ...]:
    """At most `MOST_SMALLER` multiples of `patch`, from about `share * min(sides)` to just below `min(sides)`."""
    smallest = min(sides)
    first = max(ceil_div(int(share * smallest), patch), 1) * patch
    found = range(first, smallest, patch)
    return tuple(found[:: max(ceil_div(len(found), MOST_SMALLER), 1)])


def colours(jitter: float, hue: float, grey: float, blur: float, deviation: float) -> tuple[Operation, ...]:
    """Colour operations. `jitter`, `hue`: spreads; `grey`, `blur`: probabilities; `deviation`: see `Blur.most`."""
    factors = (Factor(jitter, name) for name in ENHANCED)
    return (*factors, Hue(hue), Greyscale(grey), Blur(blur, deviation))


PRESETS = {
    "none": Preset(),
    "light": Preset(colours=colours(0.2, 0.02, 0.05, 0.05, 1.0)),
    "strong": Preset((Zoom(0.5, 0.5),), colours(0.4, 0.05, 0.1, 0.15, 2.0), smallest=0.6),
    "aerial": Preset((VerticalFlip(), QuarterTurn(), Zoom(0.3, 0.6)), colours(0.3, 0.03, 0.05, 0.1, 1.5), smallest=0.8),
}
