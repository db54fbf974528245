"""What Prometheus reads: requests, queue and slots, tokens, and how long things take."""

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpt_tf2.serving.models import Models

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """The figures of one server.

    models: whose queues and slots are read when they are asked for.
    """

    def __init__(self, models: Models):
        self.registry = CollectorRegistry()
        shared: dict[str, Any] = {"registry": self.registry, "namespace": "gpt_tf2"}
        of_model = {"labelnames": ["model"], **shared}
        self.requests = Counter("requests", "answered requests", ["path", "status"], **shared)
        self.seconds = Histogram(
            "request_seconds", "from a request's arrival to its last byte", ["path"], buckets=SECONDS, **shared
        )
        self.first_piece = Histogram(
            "first_text_seconds", "from a request's arrival to its first text", buckets=SECONDS, **of_model
        )
        self.prompt_tokens = Counter("prompt_tokens", "tokens of prompts", **of_model)
        self.completion_tokens = Counter("completion_tokens", "tokens that were generated", **of_model)
        gauges = {
            "waiting": ("completions that wait for a slot", lambda served: served.worker.waiting),
            "running": ("completions in slots", lambda served: served.worker.running),
            "loaded": ("whether the model is in memory", lambda served: 1),
            "slots": ("completions that can run at a time", lambda served: models.slots),
        }
        for name, (about, read) in gauges.items():
            gauge = Gauge(name, about, **of_model)
            for served in models.served.values():
                gauge.labels(served.name).set_function(
                    lambda served=served, read=read: read(served) if served.worker else 0  # type: ignore[misc]
                )

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


class CountRequests:
    """Counts the answers of an application, and takes their time.

    paths: the application's own. Others share one label, as anybody may make them up.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]):
        self.app, self.metrics, self.paths = app, metrics, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.monotonic(), "cancelled"

        async def count(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, count)
        except Exception:
            status = "500"
            raise
        finally:
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.monotonic() - began)
