"""Prometheus metrics: a sink over the report. The only door to prometheus-client."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from agent import __version__
from agent.board import Posted

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

#: A no-op pass takes a few milliseconds, a first apply of 1,000 hosts some seconds.
_PASS_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


_REQUEST = ("verb", "resource", "code")


class Metrics:
    """Holds its own registry: nothing global, so that tests may have many."""

    def __init__(self) -> None:
        """Register all metrics; counters begin at 0, so that `rate` works from the first scrape."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that nobody asks for
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        build = self._gauge("build_info", "Version of the agent; always 1.", "version")
        build.labels(__version__).set(1)
        self._ready = self._gauge("ready", "1 when the node is what the desired config says.")
        self._reason = self._gauge("ready_reason", "1 for the reason that readiness has now.", "reason")
        self._version = self._gauge("applied_version_info", "Version of the config in place; always 1.", "version")
        self._hosts = self._gauge("hosts", "Registry hosts by whether their directory is in place.", "state")
        self._warnings = self._gauge("warnings", "Warnings of the last pass.")
        self._finished = self._gauge("last_pass_timestamp_seconds", "Unix time when the last pass ended.")
        self._passes = self._counter("passes", "Passes by result: unchanged, changed, failed.", "result")
        self._paths = self._counter("paths_changed", "Paths below registry.d that were written or removed.")
        self._drift = self._counter("drift_repairs", "Passes that repaired drift of managed files.")
        self._duration = Histogram(
            "registry_agent_pass_duration_seconds",
            "Duration of a pass.",
            buckets=_PASS_BUCKETS_S,
            registry=self._registry,
        )
        self._silent = self._gauge("api_silent_seconds", "Seconds since the API last said something of the Secret.")
        self._pending = self._gauge("report_pending", "1 while the Node does not show the last report.")
        self._events_dropped = self._gauge("events_dropped", "Events that were not sent: too many, or refused.")
        self._requests = self._counter("api_requests", "Requests to the Kubernetes API; code 0: no answer.", *_REQUEST)
        for result in ("unchanged", "changed", "failed"):
            self._passes.labels(result)

    def update(self, posted: Posted) -> None:
        """Take over one report."""
        report = posted.report
        self._ready.set(report.verdict.is_ready)
        _set_only(self._reason, report.verdict.reason)
        _set_only(self._version, report.applied_version)
        in_place = sum(host.is_in_place for host in report.hosts)
        self._hosts.labels("in_place").set(in_place)
        self._hosts.labels("differs").set(len(report.hosts) - in_place)
        self._warnings.set(len(report.warnings))
        self._finished.set(posted.finished_at)
        self._passes.labels("failed" if report.errors else "changed" if report.changed else "unchanged").inc()
        self._paths.inc(len(report.changed))
        self._drift.inc(report.is_drift)
        self._duration.observe(posted.duration_s)

    def count_request(self, verb: str, resource: str, code: int) -> None:
        """Count one request to the Kubernetes API."""
        self._requests.labels(verb, resource, str(code)).inc()

    def see_cluster(self, facts: Mapping[str, Any] | None) -> None:
        """Take over the state of the cluster side; None without one."""
        if facts is not None:
            silent_for_s = facts["api_silent_for_s"]
            self._silent.set(math.inf if silent_for_s is None else silent_for_s)
            self._pending.set(facts["report_pending"])
            self._events_dropped.set(facts["events_dropped"])

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"registry_agent_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"registry_agent_{name}", text, labels, registry=self._registry)


def _set_only(gauge: Gauge, label: str) -> None:
    gauge.clear()
    gauge.labels(label).set(1)
