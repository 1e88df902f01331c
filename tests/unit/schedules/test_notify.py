"""Webhooks are signed as Standard Webhooks has it; secrets come from outside; commands get the event on stdin."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.schedules.notify import CommandHook, DeliveryFailed, WebhookHook, read_secret, signed_headers
from schemas.schedules import Event, Webhook
from tests.unit.schedules.world import at

EVENT = Event(
    id="nightly/2026-03-29/1/gate",
    type="gate",
    schedule="nightly",
    logical_date="2026-03-29",
    round=1,
    job_id="nightly-2026-03-29",
    job_uri="s3://b/nightly-2026-03-29",
    due_at=at("2026-03-29T01:00"),
    at=at("2026-03-29T05:00"),
    reason="too many are empty",
)


def test_the_signature_is_that_of_the_specifications_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md"""
    monkeypatch.setenv("SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    secret = read_secret(Webhook(url="https://x", secret_env="SECRET"))
    sent_at = datetime.fromtimestamp(1614265330, UTC)
    assert signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}', sent_at, secret) == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_without_a_secret_there_is_no_signature() -> None:
    assert read_secret(Webhook(url="https://x")) is None
    assert set(signed_headers("id", b"{}", at("2026-01-01T00:00"), None)) == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize("content", [None, "", "whsec_%%%"])
def test_an_event_whose_secret_is_missing_is_not_sent_unsigned(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
    hook = WebhookHook(Webhook(url="http://127.0.0.1:9/never-asked", secret_path=str(path)))
    with pytest.raises(DeliveryFailed, match="secret") as error:
        hook.send(EVENT, at("2026-03-29T05:00"))
    assert "never-asked" not in str(error.value)


def test_an_unreachable_webhook_does_not_show_its_address() -> None:
    with pytest.raises(DeliveryFailed, match="cannot be reached") as error:
        WebhookHook(Webhook(url="http://127.0.0.1:9/token-in-here")).send(EVENT, at("2026-03-29T05:00"))
    assert "token-in-here" not in str(error.value)


def test_commands_get_the_event_on_stdin_without_a_shell(tmp_path: Path) -> None:
    told = tmp_path / "told.json"
    program = f"import sys, pathlib; pathlib.Path({str(told)!r}).write_text(sys.stdin.read() + sys.argv[1])"
    CommandHook((sys.executable, "-c", program, "$HOME; true")).send(EVENT, at("2026-03-29T05:00"))
    text = told.read_text()
    assert text.endswith("$HOME; true")
    assert json.loads(text.removesuffix("$HOME; true"))["id"] == EVENT.id


def test_a_command_that_fails_is_tried_again() -> None:
    with pytest.raises(DeliveryFailed, match="ended with 3"):
        CommandHook((sys.executable, "-c", "raise SystemExit(3)")).send(EVENT, at("2026-03-29T05:00"))
    with pytest.raises(DeliveryFailed, match="FileNotFoundError"):
        CommandHook(("/no/such/program",)).send(EVENT, at("2026-03-29T05:00"))


def test_hooks_are_told_apart() -> None:
    hooks = [
        *(WebhookHook(Webhook(url=url)) for url in ("https://a", "https://b")),
        *(CommandHook(words) for words in (("a", "b"), ("a b",))),
    ]
    assert len({hook.id for hook in hooks}) == 4
