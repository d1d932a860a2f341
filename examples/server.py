"""A small HTTP server that returns detections in images as JSON. Concurrent requests share a batch.

pip install yolos-jax fastapi uvicorn
CHECKPOINT=runs/s uvicorn examples.server:app --host 127.0.0.1 --port 8000
curl --data-binary @cat.jpg 'http://127.0.0.1:8000/detect?threshold=0.5'
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from yolos_jax import Detector, InputError, UnreadableImage
from yolos_jax.inference.detections import Detections

BATCH = 8  # maximum number of images per batch
WAIT = 0.005  # seconds that the first image of a batch waits for more images
LARGEST = 20_000_000  # maximum size of a request in bytes


class Batcher:
    """Collects images from separate requests and runs the detector on up to `BATCH` of them at once."""

    def __init__(self, detector: Any):
        self.detector = detector
        self.waiting: asyncio.Queue[tuple[bytes, asyncio.Future]] = asyncio.Queue()
        self.batches: list[int] = []  # sizes of the latest batches

    async def detect(self, image: bytes) -> Detections:
        """All detections in one image file."""
        answer = asyncio.get_running_loop().create_future()
        await self.waiting.put((image, answer))
        return await answer

    async def run(self) -> None:
        """Processes batches until it is cancelled."""
        while True:
            batch = [await self.waiting.get()]
            await asyncio.sleep(WAIT)
            while len(batch) < BATCH and not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            self.batches = [*self.batches[-99:], len(batch)]
            found = await asyncio.to_thread(self.detect_all, [image for image, _ in batch])
            for (_, answer), one in zip(batch, found):
                if answer.cancelled():  # the client disconnected
                    continue
                if isinstance(one, Exception):
                    answer.set_exception(one)
                else:
                    answer.set_result(one)

    def detect_all(self, images: list[bytes]) -> list[Detections | Exception]:
        """Detections or an error for each image; a damaged image does not affect the others."""
        try:
            return self.detector(images, 0.0)
        except Exception as error:
            if len(images) == 1:
                return [error]
            return [one for image in images for one in self.detect_all([image])]


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the model before the first request."""
    app.state.batcher = Batcher(Detector.load(os.environ["CHECKPOINT"], batch_size=BATCH))
    task = asyncio.create_task(app.state.batcher.run())
    yield
    task.cancel()


app = FastAPI(title="yolos-jax", lifespan=lifespan)


@app.post("/detect")
async def detect(request: Request, threshold: float = 0.5) -> dict[str, Any]:
    """Returns `width`, `height` and `objects` of the image file in the request's body."""
    image = bytearray()
    async for chunk in request.stream():
        image += chunk
        if len(image) > LARGEST:
            raise HTTPException(413, f"the image is larger than {LARGEST} bytes")
    try:
        found = (await request.app.state.batcher.detect(bytes(image))).to_dict()
    except (InputError, UnreadableImage) as error:
        raise HTTPException(422, str(error)) from error
    found["objects"] = [one for one in found["objects"] if one["score"] >= threshold]
    return found
