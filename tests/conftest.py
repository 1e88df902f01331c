"""Fixtures that every kind of test may use."""

from __future__ import annotations

from tests.s3 import s3_bucket, s3_proxy, s3_server

__all__ = ["s3_bucket", "s3_proxy", "s3_server"]
