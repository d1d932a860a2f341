"""Finds small objects in large images: SAHI cuts an image into overlapping slices and merges their detections.

pip install yolos-jax sahi
python examples/slice_large.py aerial.jpg --checkpoint runs/s --slice 640
"""

import argparse
import json
from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from yolos_jax import Detector


class YolosModel(DetectionModel):
    """A `Detector` as a SAHI model: `YolosModel(model=Detector.load(...), confidence_threshold=0.5)`."""

    def set_model(self, model: Detector, **kwargs: Any) -> None:
        """Sets the detector and the names of its categories."""
        self.model = model
        self.category_mapping = {str(label): name for label, name in model.names_by_id.items()}

    def perform_inference(self, image: np.ndarray) -> None:
        """Runs the detector on one RGB slice."""
        self._original_predictions = self.model(np.ascontiguousarray(image), self.confidence_threshold)

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        found, whole = self._original_predictions, None
        shift = shift_amount_list[0] if np.ndim(shift_amount_list) > 1 else shift_amount_list
        if full_shape_list is not None:
            whole = full_shape_list[0] if np.ndim(full_shape_list) > 1 else full_shape_list
        width, height = found.size
        boxes = np.clip(found.boxes, 0, [width, height, width, height])
        kept = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
        predictions = [
            ObjectPrediction(
                bbox=boxes[i].tolist(), category_id=int(found.labels[i]), category_name=found.names[i],
                score=float(found.scores[i]), shift_amount=list(shift), full_shape=whole,
            )
            for i in kept
        ]  # fmt: skip
        self._object_prediction_list_per_image = [predictions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--slice", type=int, default=640, help="side length of a slice in pixels (default 640)")
    parser.add_argument("--threshold", type=float, default=0.5)
    args = parser.parse_args()
    model = YolosModel(model=Detector.load(args.checkpoint), confidence_threshold=args.threshold)
    found = get_sliced_prediction(args.image, model, slice_height=args.slice, slice_width=args.slice, verbose=0)
    print(json.dumps(found.to_coco_annotations(), indent=1))


if __name__ == "__main__":
    main()
