"""What Prometheus reads at `GET /metrics`. Every label has few values: nothing of a request becomes one."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Measures", "route_of"]

FIXED = {"/", "/predict", "/explain", "/info", "/health", "/metrics", "/files", "/openapi.json"}
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def route_of(path: str) -> str:
    """The route of a path, one of a few; `other` for what is none."""
    if path in FIXED:
        return path
    parts = path.strip("/").split("/")
    if parts[0] == "page" and len(parts) == 2:
        return "/page"
    if parts[0] == "files" and len(parts) == 2:
        return "/files/{id}"
    if parts[0] == "files" and len(parts) == 3 and parts[2] == "result":
        return "/files/{id}/result"
    if parts[0] == "runs" and len(parts) == 3 and parts[2] == "reload":
        return "/runs/{name}/reload"
    return "other"


class Measures:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("equipoise_requests", "Requests by route and status.", ["route", "status"], **of)
        self.seconds = Histogram(
            "equipoise_request_seconds", "Seconds to the answer.", ["route"], buckets=SECONDS, **of
        )
        self.texts = Counter("equipoise_texts", "Texts of requests that went through the model.", ["run"], **of)
        self.batch_texts = Histogram("equipoise_batch_texts", "Texts of a batch.", ["run"], buckets=SIZES, **of)
        self.batch_requests = Histogram(
            "equipoise_batch_requests", "Requests that shared a batch.", ["run"], buckets=SIZES, **of
        )
        self.rows = Counter("equipoise_file_rows", "Rows of tables that were predicted.", ["run"], **of)
        self.rejected = Counter("equipoise_rejected", "Requests refused because too much waited.", **of)
        self.waiting_requests = Gauge("equipoise_waiting_requests", "Requests that wait for the model.", ["run"], **of)
        self.waiting_texts = Gauge("equipoise_waiting_texts", "Texts that wait for the model.", ["run"], **of)
        self.closed = Counter(
            "equipoise_connections_closed",
            "Connections that the service closed or refused, by reason.",
            ["reason"],
            **of,
        )
        self.replaced = Counter("equipoise_workers_replaced", "Workers that died or were stuck.", ["run"], **of)
        self.busy = Gauge("equipoise_requests_in_progress", "Requests that are being answered.", **of)
        self.model = Gauge("equipoise_model", "1 for the version of a run that is served.", ["run", "version"], **of)

    def observe_batch(self, run: str, texts: int, requests: int) -> None:
        """One batch of requests."""
        self.texts.labels(run).inc(texts)
        self.batch_texts.labels(run).observe(texts)
        self.batch_requests.labels(run).observe(requests)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """One request, answered."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self, waiting: dict[str, tuple[int, int]], versions: dict[str, str]) -> bytes:
        """Everything, in Prometheus' text format."""
        for run, (requests, texts) in waiting.items():
            self.waiting_requests.labels(run).set(requests)
            self.waiting_texts.labels(run).set(texts)
        self.model.clear()  # a version that is not served any more is not told any more
        for run, version in versions.items():
            self.model.labels(run, version).set(1)
        return generate_latest(self.registry)
