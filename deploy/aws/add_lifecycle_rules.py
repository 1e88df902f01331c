"""Add the rules of lifecycle.json to those that a bucket has; S3's own command replaces them all.

    python deploy/aws/add_lifecycle_rules.py BUCKET [PREFIX]

A rule with the same ID is replaced: it may be run again. PREFIX is that of the job directories, `jobs/` unless given.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError


def merged(standing: list[dict[str, Any]], ours: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the bucket's rules with ours in place of those with their IDs."""
    ids = {rule["ID"] for rule in ours}
    return [rule for rule in standing if rule.get("ID") not in ids] + ours


def main(bucket: str, prefix: str = "jobs/") -> None:
    """Read the bucket's rules, add ours, write all of them, and print their IDs."""
    client = boto3.client("s3")
    ours = json.loads(Path(__file__).with_name("lifecycle.json").read_text())["Rules"]
    for rule in ours:
        rule["Filter"]["Prefix"] = prefix.rstrip("/") + "/" + rule["Filter"]["Prefix"].removeprefix("jobs/")
    try:
        standing = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        standing = []
    rules = merged(standing, ours)
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
    print("\n".join(rule.get("ID", "a rule without an ID") for rule in rules))


if __name__ == "__main__":
    main(*sys.argv[1:])
