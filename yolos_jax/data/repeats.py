"""Images that an epoch has more than once. No jax here."""

import numpy as np

PARTS = 65_536  # shares of a copy are whole numbers of these, so that epochs are equal on every machine


class Repeats:
    """How many copies of each image an epoch has; all epochs have equally many in all.

    An image of factor r has floor(r) copies and, with probability r - floor(r), one more. Who gets one more is drawn
    by systematic sampling: the shares lie side by side on a line, in an order of the epoch's own, and points at equal
    distances, of a random start, choose those that they fall on. So their number is always the sum of the shares,
    rounded down, and each image's probability its share times (that number / the sum).

    Args:
      factors: float `[n]`, r of each image, at least 1.
    """

    def __init__(self, factors: np.ndarray):
        whole = np.floor(factors)
        self.whole = whole.astype(np.int64)
        self.shares = np.rint((factors - whole) * PARTS).astype(np.int64)
        self.more = int(self.shares.sum()) // PARTS  # images that get one more
        self.count = int(self.whole.sum()) + self.more  # copies in an epoch

    def places(self, random: np.random.Generator) -> np.ndarray:
        """int64 `[count]`: every image once, in order, then the further copies.

        So the first view of an image does not depend on which others are repeated.
        """
        images = np.arange(len(self.whole))
        order = random.permutation(len(images))
        ends = np.cumsum(self.shares[order])
        length = int(ends[-1])
        start = random.integers(max(length, 1))
        points = (start + length * np.arange(self.more)) // max(self.more, 1)
        chosen = order[np.searchsorted(ends, points, "right")]
        return np.concatenate([images, np.repeat(images, self.whole - 1), np.sort(chosen)])
