"""The metrics of a service, in the text format of Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class ServiceMetrics:
    """The counters of one service.

    Attributes:
        registry: All of them.
        requests: Number of requests, by route and status. Any other path counts as
            `other`.
        photographs: Number of photographs, by result: `scored`, or the reason of the
            error.
        seconds: Seconds from the arrival of a request for scores to its answer.
        waiting: Number of such requests that are scored or waiting.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "drtf_requests",
            "Requests, by route and status.",
            ("route", "status"),
            registry=self.registry,
        )
        self.photographs = Counter(
            "drtf_photographs",
            "Photographs, by result: scored, or the reason of the error.",
            ("result",),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "drtf_score_seconds",
            "Seconds from the arrival of a request for scores to its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge(
            "drtf_waiting_requests",
            "Requests for scores that are scored or waiting.",
            registry=self.registry,
        )

    def count_photograph(self, error: str) -> None:
        """Count a photograph.

        Args:
            error: The column `error` of its row.
        """
        self.photographs.labels(error.partition(":")[0] or "scored").inc()
