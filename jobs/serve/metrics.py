"""`GET /metrics`: what the store says about schedules, jobs and batches, for Prometheus."""

from __future__ import annotations

from fastapi import Response
from fastapi.routing import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST

from jobs.monitoring.exporter import Exporter


def with_metrics(router: APIRouter, exporter: Exporter) -> APIRouter:
    """Add the page to a router, which must check the token: the metrics name schedules and jobs."""

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(exporter.text(), media_type=CONTENT_TYPE_LATEST)

    return router
