"""ASGI middleware of the page: upload limits, and a policy that forbids content from other hosts."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Any, Send], Awaitable[None]]

MINUTE = 60.0
# Prevents browsers from contacting other hosts, even if Gradio's code tries to.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; connect-src 'self' ws: wss: data: blob:"


class UploadLimits:
    """Rejects uploads that are too large, too frequent, or sent without their size.

    Args:
      most_bytes: maximum size of one request.
      most_a_minute: maximum number of uploads per minute by all visitors together.
    """

    def __init__(self, app: App, most_bytes: int, most_a_minute: int):
        self.app = app
        self.most_bytes = most_bytes
        self.most_a_minute = most_a_minute
        self._times: deque[float] = deque()

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            length = dict(scope["headers"]).get(b"content-length", b"")
            now = time.monotonic()
            while self._times and now - self._times[0] > MINUTE:
                self._times.popleft()
            if not length.isdigit():
                return await _refuse(send, 411, "an upload needs a Content-Length header.")
            if int(length) > self.most_bytes:
                return await _refuse(send, 413, f"an upload may have at most {self.most_bytes} bytes.")
            if len(self._times) >= self.most_a_minute:
                return await _refuse(
                    send, 429, f"at most {self.most_a_minute} uploads per minute are accepted; try again later."
                )
            self._times.append(now)
        await self.app(scope, receive, send)


async def _refuse(send: Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})


class OwnContentOnly:
    """Prevents browsers from loading content from other hosts and from sending them a referrer."""

    def __init__(self, app: App):
        self.app = app

    async def __call__(self, scope: Scope, receive: Any, send: Send) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message["headers"] = [*message["headers"], policy, (b"referrer-policy", b"same-origin")]
            await send(message)

        await self.app(scope, receive, with_policy)
