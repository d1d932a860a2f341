"""The network in standard ONNX operators, with dynamic batch and image sizes; the parameters are initializers.

It computes the same function as `yolos_jax.model`. The images of a batch share a canvas, and attention masks the
patches outside each image. A transformer does not depend on the order of its tokens, so the result is the same as for a
sequence that contains only the image's patches.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import spox.opset.ai.onnx.v17 as op
from onnx import ModelProto
from spox import Tensor, Var, argument, build

from yolos_jax.model.config import YolosConfig
from yolos_jax.model.position import A
from yolos_jax.model.yolos import MEAN, STD


def build_model(config: YolosConfig, params: dict) -> ModelProto:
    """Builds the detector as an ONNX model of operator set 17.

    Args:
      config: the architecture.
      params: its parameters, nested as in a checkpoint.

    Returns:
      A model with inputs `images` uint8 `[B, H, W, 3]`, `grid` int32 `[B, 2]` and `size` float32 `[B, 2]`, and outputs
      `logits`, `boxes`, `scores`, `labels` and `pixel_boxes`; see `stablehlo.OUTPUTS`.
    """
    inputs = {
        "images": argument(Tensor(np.uint8, ("batch", "height", "width", 3))),
        "grid": argument(Tensor(np.int32, ("batch", 2))),
        "size": argument(Tensor(np.float32, ("batch", 2))),
    }
    network = _Network(config, inputs["images"], inputs["grid"])
    logits, boxes = network(params)
    scores, labels, pixel_boxes = _postprocess(logits, boxes, inputs["size"])
    outputs = {"logits": logits, "boxes": boxes, "scores": scores, "labels": labels, "pixel_boxes": pixel_boxes}
    model = build(inputs, outputs)
    _constants_to_initializers(model)
    return model


def _constants_to_initializers(model: ModelProto) -> None:
    """Turns constants into initializers, where quantizers look for weights."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensor = model.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _floats(value: Any) -> Var:
    return op.constant(value=np.asarray(value, np.float32))


def _wholes(value: Any) -> Var:
    return op.constant(value=np.asarray(value, np.int64))


def _shape(*sides: int | Var) -> Var:
    """Builds a shape from constant sizes and int64 tensors of shape `[1]`."""
    return op.concat([_wholes([side]) if isinstance(side, int) else side for side in sides], axis=0)


def _columns(x: Var, start: int, stop: int, axis: int = 2) -> Var:
    return op.slice(x, _wholes([start]), _wholes([stop]), _wholes([axis]))


def _expanded(x: Var, *axes: int) -> Var:
    return op.unsqueeze(x, _wholes(axes))


def _linear(x: Var, kernel: np.ndarray, bias: np.ndarray) -> Var:
    return op.add(op.matmul(x, _floats(kernel)), _floats(bias))


def _head(x: Var, params: dict) -> Var:
    x = op.relu(_linear(x, **params["fc1"]))
    x = op.relu(_linear(x, **params["fc2"]))
    return _linear(x, **params["fc3"])


def _gelu(x: Var) -> Var:
    half = op.mul(x, _floats(0.5))
    return op.mul(half, op.add(op.erf(op.mul(x, _floats(0.5**0.5))), _floats(1)))


def _polynomial(t: Var, coefficients: Sequence[float]) -> Var:
    """Evaluates a polynomial by Horner's rule; the first coefficient is that of the highest power."""
    value = _floats(coefficients[0])
    for coefficient in coefficients[1:]:
        value = op.add(op.mul(value, t), _floats(coefficient))
    return value


def _taps(size_in: int, size_out: Var, at: Var) -> Var:
    """Float32 weights `[B, n, size_in]` for bicubic resizing along an axis (see `position.cubic_taps`).

    `size_out` is float32 `[B, 1]`, `at` float32 `[1, n]`.
    """
    scale = op.div(_floats(size_in), size_out)
    source = op.sub(op.mul(scale, op.add(at, _floats(0.5))), _floats(0.5))
    first = op.floor(source)
    t = op.sub(source, first)
    near = (A + 2, -(A + 3), 0, 1)
    far = (A, -5 * A, 8 * A, -4 * A)
    distances = (op.add(t, _floats(1)), t, op.sub(_floats(1), t), op.sub(_floats(2), t))
    places = _floats(np.arange(size_in))
    total = None
    for offset, distance, kernel in zip((-1, 0, 1, 2), distances, (far, near, near, far)):
        index = op.clip(op.add(first, _floats(offset)), _floats(0), _floats(size_in - 1))
        chosen = op.cast(op.equal(_expanded(index, 2), places), to=np.float32)
        weighted = op.mul(_expanded(_polynomial(distance, kernel), 2), chosen)
        total = weighted if total is None else op.add(total, weighted)
    return total


class _Network:
    """The graph of one model; its attributes depend only on the inputs."""

    def __init__(self, config: YolosConfig, images: Var, grid: Var):
        self.config, self.images = config, images
        patch = config.patch_size
        shape = op.shape(images)
        self.batch = _columns(shape, 0, 1, axis=0)
        self.rows = op.div(_columns(shape, 1, 2, axis=0), _wholes([patch]))
        self.columns = op.div(_columns(shape, 2, 3, axis=0), _wholes([patch]))
        self.height = op.cast(_columns(grid, 0, 1, axis=1), to=np.float32)  # [B, 1], each image's height in patches
        self.width = op.cast(_columns(grid, 1, 2, axis=1), to=np.float32)
        row, column = (
            _expanded(op.cast(op.range(_wholes(0), op.squeeze(n), _wholes(1)), to=np.float32), 0)
            for n in (self.rows, self.columns)
        )
        inside = op.and_(_expanded(op.less(row, self.height), 2), _expanded(op.less(column, self.width), 1))
        bias = op.where(op.reshape(inside, _shape(self.batch, -1)), _floats(0), _floats(-np.inf))
        shared = op.expand(_floats(0), _shape(self.batch, 1 + config.det_tokens))
        self.bias = _expanded(op.concat([shared, bias], axis=1), 1, 2)  # [B, 1, 1, T], added to the attention scores
        # Row-major index of each patch in its image, which skip_equal_count uses to read the table.
        self.place = op.add(op.mul(_expanded(row, 2), _expanded(self.width, 1)), _expanded(column, 1))
        self.row, self.column = row, column

    def __call__(self, params: dict) -> tuple[Var, Var]:
        """Returns logits `[B, Q, K + 1]` and boxes `[B, Q, 4]`."""
        x = self.embedded(params)
        for layer in range(self.config.depth - 1):
            x = self.block(x, _layer(params["blocks"], layer))
            if params.get("mid_pos_embed"):
                x = op.add(x, self.positions(_layer(params["mid_pos_embed"], layer)))
        x = self.block(x, params["last_block"], last=True)
        features = self.norm(x, params["norm"])
        return _head(features, params["class_head"]), op.sigmoid(_head(features, params["box_head"]))

    def embedded(self, params: dict) -> Var:
        """The input of the first block, `[B, T, D]`."""
        p = self.config.patch_size
        cut = op.reshape(self.images, _shape(self.batch, self.rows, p, self.columns, p, 3))
        patches = op.reshape(op.transpose(cut, perm=(0, 1, 3, 2, 4, 5)), _shape(self.batch, -1, 3 * p * p))
        pixels = op.div(op.cast(patches, to=np.float32), _floats(255))
        mean, std = np.tile(MEAN, p * p), np.tile(STD, p * p)
        normal = op.div(op.sub(pixels, _floats(mean)), _floats(std))
        tokens = self.prepend(params["cls_token"], params["det_tokens"], _linear(normal, **params["patch_embed"]))
        return op.add(tokens, self.positions(params["pos_embed"]))

    def prepend(self, cls: np.ndarray, det: np.ndarray, patches: Var) -> Var:
        shared = _floats(np.concatenate([cls, det])[None])
        shape = _shape(self.batch, 1 + self.config.det_tokens, self.config.width)
        return op.concat([op.expand(shared, shape), patches], axis=1)

    def positions(self, params: dict) -> Var:
        """Position embeddings `[B, T, D]`, resized for each image."""
        table = np.asarray(params["grid"])
        rows, columns, width = table.shape
        # The identity keeps quantizers from treating the table as a weight; runtimes remove it.
        columns_and_width = op.identity(_floats(table.reshape(rows, -1)))
        down = op.matmul(_taps(rows, self.height, self.row), columns_and_width)
        down = op.reshape(down, _shape(self.batch, self.rows, columns, width))
        across = op.matmul(_expanded(_taps(columns, self.width, self.column), 1), down)
        resized = op.reshape(across, _shape(self.batch, -1, width))
        if self.config.skip_equal_count:
            count = rows * columns
            place = op.cast(op.clip(self.place, _floats(0), _floats(count - 1)), to=np.int64)
            as_is = op.reshape(op.gather(_floats(table.reshape(count, width)), place), _shape(self.batch, -1, width))
            equal = op.equal(op.mul(self.height, self.width), _floats(count))
            resized = op.where(_expanded(equal, 2), as_is, resized)
        return self.prepend(params["cls"], params["det"], resized)

    def norm(self, x: Var, params: dict) -> Var:
        scale, bias = _floats(params["scale"]), _floats(params["bias"])
        return op.layer_normalization(x, scale, bias, epsilon=self.config.layer_norm_eps)[0]

    def block(self, x: Var, params: dict, last: bool = False) -> Var:
        """A transformer block; the last one computes only the DET tokens, `[B, Q, D]`."""
        mixed = self.attention(self.norm(x, params["norm1"]), params["attn"], last)
        x = op.add(self.queries(x, last), mixed)
        hidden = _gelu(_linear(self.norm(x, params["norm2"]), **params["mlp"]["fc1"]))
        return op.add(x, _linear(hidden, **params["mlp"]["fc2"]))

    def queries(self, x: Var, last: bool) -> Var:
        return _columns(x, 1, 1 + self.config.det_tokens, axis=1) if last else x

    def attention(self, x: Var, params: dict, last: bool) -> Var:
        width, heads = self.config.width, self.config.heads
        kernels = np.split(np.asarray(params["qkv"]["kernel"]), 3, axis=1)
        biases = np.split(np.asarray(params["qkv"]["bias"]), 3)
        split = _shape(self.batch, -1, heads, width // heads)
        q, k, v = (
            op.reshape(_linear(tokens, kernel, bias), split)
            for tokens, kernel, bias in zip((self.queries(x, last), x, x), kernels, biases)
        )
        product = op.matmul(op.transpose(q, perm=(0, 2, 1, 3)), op.transpose(k, perm=(0, 2, 3, 1)))
        scores = op.add(op.mul(product, _floats((width // heads) ** -0.5)), self.bias)
        out = op.matmul(op.softmax(scores, axis=-1), op.transpose(v, perm=(0, 2, 1, 3)))
        joined = op.reshape(op.transpose(out, perm=(0, 2, 1, 3)), _shape(self.batch, -1, width))
        return _linear(joined, **params["proj"])


def _layer(params: dict, layer: int) -> dict:
    """Selects the parameters of one of the stacked blocks."""
    return {k: _layer(v, layer) if isinstance(v, dict) else np.asarray(v)[layer] for k, v in params.items()}


def _postprocess(logits: Var, boxes: Var, size: Var) -> tuple[Var, Var, Var]:
    """Returns scores, labels and boxes in pixels; see `inference.postprocess`."""
    probabilities = _columns(op.softmax(logits, axis=-1), 0, -1)
    labels = op.cast(op.arg_max(probabilities, axis=-1, keepdims=0), to=np.int32)
    half = op.mul(_columns(boxes, 2, 4), _floats(0.5))
    centre = _columns(boxes, 0, 2)
    corners = op.concat([op.sub(centre, half), op.add(centre, half)], axis=2)
    scale = _expanded(op.concat([size, size], axis=1), 1)
    return op.reduce_max(probabilities, axes=[-1], keepdims=0), labels, op.mul(corners, scale)
