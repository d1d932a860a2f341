"""Detections for tests: hand-made ones with every type of error, the cocoapi example, and noisy copies."""

import json

import numpy as np
from reference_pack import data_folder


def entry(image_id, category, bbox, score):
    return {"image_id": image_id, "category_id": category, "bbox": bbox, "score": score}


def hand_made():
    """(truth, results): one image with an object of class 7 and two of class 3, a crowd, and seven detections."""
    boxes = [(3, [0, 0, 20, 20], 0), (7, [50, 50, 20, 20], 0), (3, [0, 80, 10, 10], 0), (7, [75, 75, 20, 20], 1)]
    annotations = [
        {"id": i, "image_id": 5, "category_id": c, "bbox": b, "area": b[2] * b[3], "iscrowd": crowd}
        for i, (c, b, crowd) in enumerate(boxes, 1)
    ]
    truth = {
        "images": [{"id": 5, "width": 100, "height": 100, "file_name": "5.png"}],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
        "annotations": annotations,
    }
    results = [
        entry(5, 7, [76, 76, 10, 10], 0.3),  # in the crowd
        entry(5, 7, [80, 0, 10, 10], 0.4),  # background
        entry(5, 3, [50, 60, 20, 20], 0.5),  # wrong class and location: IoU 1/3 with an object of class 7
        entry(5, 3, [50, 50, 20, 20], 0.6),  # wrong class
        entry(5, 7, [60, 50, 20, 20], 0.7),  # wrong location: IoU 1/3
        entry(5, 3, [1, 0, 20, 20], 0.8),  # duplicate
        entry(5, 3, [0, 0, 20, 20], 0.9),  # correct
    ]
    return truth, results


def example():
    """(truth, results) of the example that is published with cocoapi."""
    folder = data_folder("coco_eval_ref")
    names = "instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"
    return tuple(json.loads((folder / name).read_text()) for name in names)


def noisy(truth, results):
    """Each detection plus three copies with randomly changed box, score and class; at most 100 per image."""
    rng, ids = np.random.default_rng(0), [c["id"] for c in truth["categories"]]
    found = {}
    for result in results:
        here = found.setdefault(result["image_id"], [])
        here.append(result)
        for _ in range(3):
            box = np.array(result["bbox"]) * (1 + rng.normal(0, 0.25, 4))
            box[2:] = np.maximum(box[2:], 1)
            score, same = float(rng.random()), rng.random() < 0.7
            category = result["category_id"] if same else int(rng.choice(ids))
            here.append(entry(result["image_id"], category, box.tolist(), score))
    return [r for here in found.values() for r in sorted(here, key=lambda r: -r["score"])[:100]]
