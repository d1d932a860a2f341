"""Runs the YOLOS model from transformers with the inputs of a case, the way users of transformers run it."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.cases import Case, Inputs
from benchmarks.ours import Work
from yolos_jax.model.yolos import MEAN, STD
from yolos_jax.weights.huggingface import to_huggingface
from yolos_jax.weights.huggingface_config import write_config

KINDS = ("sdpa", "eager", "compile")  # fused attention, attention without fusion, and sdpa with torch.compile


def available() -> bool:
    """Whether PyTorch and transformers are installed."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        return False
    return True


def network(case: Case, params: dict, kind: str, device: str) -> Any:
    """The transformers model with these parameters."""
    import torch
    import transformers

    values = write_config(case.config, None)
    config = transformers.YolosConfig(**{k: v for k, v in values.items() if k != "architectures"})
    config._attn_implementation = "eager" if kind == "eager" else "sdpa"
    model: Any = transformers.YolosForObjectDetection(config)
    state = {name: torch.from_numpy(array.copy()) for name, array in to_huggingface(params, case.config).items()}
    model.load_state_dict(state)
    return model.to(device)


class Peer:
    """The transformers model with the inputs of a case; `device` is a PyTorch device name."""

    def __init__(self, case: Case, params: dict, inputs: Inputs, device: str, kind: str):
        import torch

        self.case, self.device, self.kind = case, device, kind
        self.model = network(case, params, kind, device)
        pixels = (inputs.images.astype(np.float32) / 255 - np.asarray(MEAN, np.float32)) / np.asarray(STD, np.float32)
        self.pixels = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to(device)
        self.labels = [
            {"class_labels": torch.from_numpy(labels).long().to(device), "boxes": torch.from_numpy(boxes).to(device)}
            for labels, boxes in zip(inputs.labels, inputs.boxes)
        ]

    def work(self, name: str) -> Work:
        """Prepares one of `cases.WORKLOADS`; for `compile`, times the first run, which compiles and may raise."""
        import torch

        model = torch.compile(self.model) if self.kind == "compile" else self.model
        model.train(name != "forward")
        makers = {"forward": self._forward, "forward_backward": self._forward_backward, "step": self._step}
        run = self._synchronized(makers[name](model))
        start = time.perf_counter()
        if self.kind == "compile":
            run()
        return Work(run, time.perf_counter() - start)

    def _synchronized(self, run: Callable[[], Any]) -> Callable[[], Any]:
        import torch

        def whole() -> Any:
            with torch.autocast(self.device, torch.bfloat16, enabled=self.case.dtype == "bfloat16"):
                out = run()
            if self.device == "cuda":
                torch.cuda.synchronize()
            return out

        return whole

    def _forward(self, model: Any) -> Callable[[], Any]:
        import torch

        def run() -> Any:
            with torch.inference_mode():
                out = model(pixel_values=self.pixels)
            return out.logits, out.pred_boxes

        return run

    def _forward_backward(self, model: Any) -> Callable[[], Any]:
        def run() -> Any:
            self.model.zero_grad(set_to_none=True)
            out = model(pixel_values=self.pixels)
            loss = out.logits.square().mean() + out.pred_boxes.square().mean()
            loss.backward()
            return loss.detach()

        return run

    def _step(self, model: Any) -> Callable[[], Any]:
        """A plain training step, which returns the loss and the gradient norm."""
        import torch

        optimizer = torch.optim.AdamW(self.model.parameters(), lr=2.5e-5, weight_decay=1e-4)

        def run() -> Any:
            optimizer.zero_grad(set_to_none=True)
            loss = model(pixel_values=self.pixels, labels=self.labels).loss
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
            optimizer.step()
            return loss.detach(), norm

        return run


def device_of(device: Any) -> str:
    """The PyTorch device name for a jax device; "cpu" if PyTorch does not support the device."""
    import torch

    return "cuda" if device.platform == "gpu" and torch.cuda.is_available() else "cpu"
