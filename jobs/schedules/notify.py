"""Delivery of events: webhooks, signed as https://www.standardwebhooks.com specifies, and commands.

Delivery is at least once: receivers recognise a repetition by the event's id. An event says how a run ended, and never
holds a prompt, a result or a secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from jobs.errors import JobsError
from schemas.schedules import Event, Webhook

_CONNECT_S, _READ_S, _COMMAND_S = 5.0, 15.0, 60.0
_BASE64_PREFIX = "whsec_"


class DeliveryFailed(JobsError):
    """A notification was not accepted; it is tried again."""


class Hook(Protocol):
    """One receiver of events."""

    @property
    def id(self) -> str:
        """A stable id, under which deliveries are recorded."""

    def send(self, event: Event, now: datetime) -> None:
        """Deliver one event.

        Raises:
            DeliveryFailed: the event was not accepted.
        """


@dataclass(frozen=True, slots=True)
class WebhookHook:
    """POSTs the event as JSON. 2xx means accepted; redirects are not followed."""

    webhook: Webhook

    @property
    def id(self) -> str:
        return _id("webhook", self.webhook.url)

    def send(self, event: Event, now: datetime) -> None:
        import requests

        body = event.to_json()
        headers = {"content-type": "application/json", "user-agent": "nightbatch"}
        secret = read_secret(self.webhook)
        headers |= signed_headers(event.id, body, now, secret)
        try:
            answer = requests.post(
                self.webhook.url, data=body, headers=headers, timeout=(_CONNECT_S, _READ_S), allow_redirects=False
            )
        except requests.RequestException as error:
            # The error's text may quote the address, which may hold a token.
            raise DeliveryFailed(f"The webhook cannot be reached ({type(error).__name__}).") from None
        if not 200 <= answer.status_code < 300:
            raise DeliveryFailed(f"The webhook answered {answer.status_code}.")


@dataclass(frozen=True, slots=True)
class CommandHook:
    """Runs a program, without a shell, with the event as JSON on its standard input."""

    arguments: tuple[str, ...]

    @property
    def id(self) -> str:
        return _id("command", *self.arguments)

    def send(self, event: Event, now: datetime) -> None:
        try:
            done = subprocess.run(
                self.arguments,
                input=event.to_json(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=_COMMAND_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DeliveryFailed(f"The command {self.arguments[0]} failed ({type(error).__name__}).") from error
        if done.returncode:
            raise DeliveryFailed(f"The command {self.arguments[0]} ended with {done.returncode}.")


def hooks_of(webhooks: Sequence[Webhook], commands: Sequence[tuple[str, ...]]) -> list[Hook]:
    """Return all receivers of a schedule's events."""
    return [*map(WebhookHook, webhooks), *map(CommandHook, commands)]


def signed_headers(event_id: str, body: bytes, now: datetime, secret: bytes | None) -> dict[str, str]:
    """Build `webhook-id`, `webhook-timestamp` and, with a secret, `webhook-signature`.

    The signature is an HMAC-SHA256 over id, timestamp and body.
    """
    timestamp = str(int(now.timestamp()))
    headers = {"webhook-id": event_id, "webhook-timestamp": timestamp}
    if secret is not None:
        digest = hmac.new(secret, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
    return headers


def read_secret(webhook: Webhook) -> bytes | None:
    """Read the secret that a webhook names; None if it names none. `whsec_…` is base64, anything else is used as is.

    Raises:
        DeliveryFailed: the secret is missing or invalid: an unsigned event would be worse than a late one.
    """
    if webhook.secret_env is not None:
        where, text = f"environment variable {webhook.secret_env}", os.environ.get(webhook.secret_env, "")
    elif webhook.secret_path is not None:
        where = f"file {webhook.secret_path}"
        try:
            text = Path(webhook.secret_path).expanduser().read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
    else:
        return None
    if not text:
        raise DeliveryFailed(f"The webhook's secret is missing: {where}.")
    if not text.startswith(_BASE64_PREFIX):
        return text.encode()
    try:
        return base64.b64decode(text.removeprefix(_BASE64_PREFIX), validate=True)
    except binascii.Error:
        raise DeliveryFailed(f"The webhook's secret is not base64 after whsec_: {where}.") from None


def _id(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
