"""What Prometheus is told."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

__all__ = ["Metrics"]

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """One server's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("atlas_serving_requests", "Requests answered", ["route", "status"], registry=self.registry)
        self.latency = Histogram(
            "atlas_serving_latency_seconds", "From request to answer", ["route"], buckets=_BUCKETS_S, registry=self.registry
        )
        self.predictions = Counter("atlas_serving_predictions", "Items predicted", ["model"], registry=self.registry)
        self.swaps = Counter("atlas_serving_swaps", "Times another model took over", registry=self.registry)
        self.load_failures = Counter(
            "atlas_serving_load_failures", "Times a model could not be loaded; the old one went on serving", registry=self.registry
        )
        self.model = Gauge("atlas_serving_model", "1 for the model that serves", ["model", "dataset", "seq"], registry=self.registry)
        self.ledger_up = Gauge("atlas_serving_ledger_up", "1 while the ledger answers", registry=self.registry)
        self.queue = Gauge("atlas_serving_queue_length", "Predictions and captured cases waiting to be written", registry=self.registry)
        self.waiting = Gauge("atlas_serving_waiting_rows", "Rows waiting for the model", registry=self.registry)
        self.dropped = Counter(
            "atlas_serving_dropped", "Entries lost from the full queue, or refused by the ledger", ["what"], registry=self.registry
        )
        self.cases = Counter("atlas_serving_cases", "Cases created", ["source"], registry=self.registry)
        self.feedback = Counter("atlas_serving_feedback", "Feedback acknowledged", ["outcome"], registry=self.registry)
        for source in ("feedback", "capture"):
            self.cases.labels(source)
        for what in ("prediction", "case"):
            self.dropped.labels(what)

    def render(self) -> bytes:
        """Return the text that `/metrics` serves."""
        return generate_latest(self.registry)
