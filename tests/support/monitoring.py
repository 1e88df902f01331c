"""The queries of `deploy/monitoring`, and a Prometheus server for tests."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

MONITORING = Path(__file__).parents[2] / "deploy/monitoring"
SELECTOR = re.compile(r"(?:ray|nightbatch)_\w+(?:\{[^}]*\})?")

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None,
    reason="needs Prometheus: apt-get install prometheus",
)


def panel_queries(job: str) -> dict[str, str]:
    """Return every query of the dashboard by panel and letter, with its variables filled in."""
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    values = {
        each["name"]: each["current"]["value"] for each in dashboard["templating"]["list"] if each["type"] == "textbox"
    }
    queries = {}
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            expr = target["expr"].replace("$job", job)
            for name, value in values.items():
                expr = expr.replace(f"${name}", value)
            assert "$" not in expr, f"{panel['title']} uses a variable that the dashboard does not have"
            queries[f"{panel['title']} {target['refId']}"] = expr
    return queries


def alert_selectors() -> dict[str, str]:
    """Return the series that alerts look at, by alert and number: a comparison gives none while all is well."""
    (group,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return {
        f"{rule['alert']} {number}": selector
        for rule in group["rules"]
        for number, selector in enumerate(SELECTOR.findall(rule["expr"]))
    }


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus server."""

    url: str

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the series that an instant query gives now, without those that are NaN."""
        parameters = urllib.parse.urlencode({"query": expr})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as answer:
                found = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                return []  # it is still starting
            raise AssertionError(f"{expr}: {error.read().decode()}") from error
        except OSError:
            return []
        return [series for series in found if series["value"][1] != "NaN"]

    def wait_for(self, queries: dict[str, str], timeout_s: float) -> None:
        """Wait until every query has given series."""
        deadline, missing = time.monotonic() + timeout_s, queries
        while missing := {name: expr for name, expr in missing.items() if not self.query(expr)}:
            assert time.monotonic() < deadline, f"no series in {timeout_s:.0f} s: {json.dumps(missing, indent=1)}"
            time.sleep(1)


@contextmanager
def prometheus(
    folder: Path, targets: str = "none.json", scheduler: str = "", token: Path | None = None, api: str = ""
) -> Iterator[Prometheus]:
    """Run Prometheus with the shipped configuration, but for the interval and where things are.

    Args:
        targets: the file with the cluster's targets.
        scheduler, api: `host:port` of what shows the facts; "" leaves the shipped address, where nothing answers.
        token: file with the API's token.
    """
    config = (MONITORING / "prometheus.yml").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    changes = {
        "/var/lib/nightbatch/state/cluster/prometheus-targets.json": targets,
        "/var/lib/nightbatch/api-token": str(token or folder / "no-token"),
        "127.0.0.1:9464": scheduler or "127.0.0.1:9464",
        "127.0.0.1:8340": api or "127.0.0.1:8340",
        "interval: 10s": "interval: 1s",
    }
    for shipped, here in changes.items():
        assert shipped in config
        config = config.replace(shipped, here)
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(MONITORING / "alerts.yml", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"),
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(20)
