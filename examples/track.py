"""Tracks objects through a video: assigns a track id to each detection, and prints a line of JSON for each frame.

pip install 'yolos-jax[video,supervision]' trackers
python examples/track.py street.mp4 --checkpoint hustvl/yolos-small
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from typing import Any

from trackers import ByteTrackTracker

from yolos_jax import Detector
from yolos_jax.inference.detections import Detections


def tracked(found: Iterable[Detections], tracker: Any) -> Iterator[Any]:
    """Yields `supervision.Detections` with a `tracker_id` for each frame; it is -1 until a track is confirmed."""
    for detections in found:
        yield tracker.update(detections.to_supervision())


def frames(path: str) -> Iterator[Any]:
    """The frames of a video as uint8 `[height, width, 3]`, RGB."""
    import av

    with av.open(path) as video:
        for frame in video.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video")
    parser.add_argument("--checkpoint", required=True)
    args = parser.parse_args()
    detector = Detector.load(args.checkpoint)
    # ByteTrack also uses uncertain detections, which keep the track of a partly hidden object alive.
    found = (detector(frame, threshold=0.1) for frame in frames(args.video))
    for number, one in enumerate(tracked(found, ByteTrackTracker())):
        rows = zip(one.tracker_id.tolist(), one.data["class_name"].tolist(), one.xyxy.tolist())
        objects = [{"track": track, "name": name, "box": box} for track, name, box in rows]
        print(json.dumps({"frame": number, "objects": objects}))


if __name__ == "__main__":
    main()
