"""`jobs doctor` against a running cluster: what it reports, what it fails on, and that it leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.cluster.submission import Submitter
from tests.support.harness import User


def findings(user: User, *arguments: str, code: int) -> dict[str, dict[str, str]]:
    done = user.run("doctor", "--json", *arguments, code=code, timeout_s=200)
    return {each["check"]: each for each in json.loads(done.stdout)}


def test_a_healthy_cluster_passes_and_keeps_no_trace(s3_user: User) -> None:
    found = findings(s3_user, code=0)
    assert {name: each["level"] for name, each in found.items()} == {
        "client": "ok",
        "packages": "ok",
        "cluster": "ok",
        "versions": "ok",
        "packages on the nodes": "ok",
        "gpus": "warn",
        "store from the cluster": "ok",
        "store": "ok",
        "clock": "ok",
        "shell": "warn",
    }
    assert found["versions"]["detail"] == "the same on 1 node"
    cluster = s3_user.json("cluster", "status")
    submitter = Submitter(cluster["dashboard"], Path(cluster["token_file"]))
    assert not [each for each in submitter._submissions() if (each["submission_id"] or "").startswith("doctor-")]
    assert not list(s3_user.ledger("any").store.list("_probe/"))


def test_a_store_that_only_this_machine_reaches_and_a_model_that_no_node_has(user: User, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = findings(user, "--root", str(tmp_path / "file" / "root"), "--model", str(tmp_path / "none"), code=1)
    assert found["store from the cluster"]["level"] == "fail"
    assert "service account" in found["store from the cluster"]["fix"]
    assert found["model on the nodes"]["level"] == "fail"
    assert "jobs model prepare" in found["model on the nodes"]["fix"]


def test_a_refused_token_is_the_finding(user: User, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    address = user.json("cluster", "status")["dashboard"]
    found = findings(user, "--address", address, "--token-path", str(tmp_path / "token"), code=1)
    assert found["cluster"]["level"] == "fail"
    assert "refuses the token" in found["cluster"]["detail"]
    assert "gpus" not in found
