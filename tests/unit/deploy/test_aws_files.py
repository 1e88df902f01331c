"""The files of `deploy/aws`: Ray takes the cluster, roles may what they must, rules of a bucket are added to others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.deploy_commands import DEPLOY
from tests.support.s3 import S3Server

AWS = DEPLOY / "aws"
CONFIG = yaml.safe_load((AWS / "ray-cluster.yaml").read_text())
NODES: dict[str, dict[str, Any]] = {name: each["node_config"] for name, each in CONFIG["available_node_types"].items()}
OTHERS = [
    {"ID": "logs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}},
    {"ID": "nightbatch-probes", "Status": "Enabled", "Filter": {"Prefix": "old/"}, "Expiration": {"Days": 9}},
]


def allowed(policy: str) -> dict[str, Any]:
    """Return action → resource of a policy; every statement allows."""
    statements = json.loads((AWS / policy).read_text())["Statement"]
    assert {each["Effect"] for each in statements} == {"Allow"}
    actions = [(each["Action"], each["Resource"]) for each in statements]
    return {name: where for names, where in actions for name in ([names] if isinstance(names, str) else names)}


def test_ray_accepts_the_aws_cluster() -> None:
    validate_config(prepare_config(CONFIG))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config({**CONFIG, "idle_timeout_minute": 5}))


def test_every_node_has_an_image_and_a_role_that_fits_its_work() -> None:
    """Ray's own choices are an image of Ubuntu 18.04 with CUDA 11, and a role with all of EC2 and S3."""
    assert all(node["ImageId"] == "ami-CHANGE-ME" for node in NODES.values())
    roles = {name: node["IamInstanceProfile"]["Name"] for name, node in NODES.items()}
    assert roles == {"head": "nightbatch-head", "cpu": "nightbatch", "gpu-h100-spot": "nightbatch"}
    assert all(node["MetadataOptions"]["HttpTokens"] == "required" for node in NODES.values())
    gigabytes = {name: node["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] for name, node in NODES.items()}
    assert min(gigabytes.values()) >= 200, "the image, the model of 40 GB, and what spills"


def test_the_head_may_launch_and_end_workers_and_they_may_not() -> None:
    head = allowed("head-policy.json")
    # What Ray's node provider calls (autoscaler/_private/aws/node_provider.py), and the role that its nodes get.
    assert {"ec2:DescribeInstances", "ec2:RunInstances", "ec2:CreateTags", "ec2:TerminateInstances"} <= head.keys()
    assert head["iam:PassRole"].endswith(f":role/{NODES['cpu']['IamInstanceProfile']['Name']}")
    assert not [action for action in allowed("bucket-policy.json") if not action.startswith("s3:")]
    statements = json.loads((AWS / "head-policy.json").read_text())["Statement"]
    (end,) = [each for each in statements if each["Action"] == "ec2:TerminateInstances"]
    assert end["Condition"]["StringEquals"] == {"aws:ResourceTag/ray-cluster-name": CONFIG["cluster_name"]}


def test_the_model_is_fetched_to_where_the_container_has_it() -> None:
    (fetch,) = CONFIG["setup_commands"]
    target = fetch.split()[-1]
    (mounted,) = [option for option in CONFIG["docker"]["run_options"] if option.startswith("-v ")]
    host, inside = mounted.removeprefix("-v ").split(":")
    assert target.startswith(f"{inside}/")
    made, login = CONFIG["initialization_commands"]
    assert made == f"sudo install -d -o 1000 -g 1000 {host}"
    assert CONFIG["docker"]["image"].startswith(login.split()[-1] + "/"), "docker logs in where the image is"


def test_what_an_operator_must_change_is_marked() -> None:
    lines = [line for line in (AWS / "ray-cluster.yaml").read_text().splitlines() if not line.startswith("#")]
    marked = [line for line in lines if "CHANGE-ME" in line]
    assert len(marked) == 4
    assert not re.search(r"example\.com", "\n".join(lines))


@pytest.mark.parametrize("standing", [[], OTHERS], ids=["none", "others"])
def test_lifecycle_rules_are_added_to_those_of_the_bucket(
    standing: list[dict[str, Any]], s3_bucket: str, s3_server: S3Server
) -> None:
    client = s3_server.client()
    if standing:
        client.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration={"Rules": standing})
    for _ in range(2):
        command = [sys.executable, str(AWS / "add_lifecycle_rules.py"), s3_bucket, "batch/jobs"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    kept = {each["ID"]: each for each in client.get_bucket_lifecycle_configuration(Bucket=s3_bucket)["Rules"]}
    assert kept["nightbatch-unfinished-uploads"]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert kept["nightbatch-probes"]["Filter"]["Prefix"] == "batch/jobs/_probe/"
    assert kept["nightbatch-probes"]["Expiration"] == {"Days": 1}
    assert set(kept) == {"nightbatch-unfinished-uploads", "nightbatch-probes", *(each["ID"] for each in standing)}
    if standing:
        assert kept["logs"]["Expiration"] == {"Days": 30}
