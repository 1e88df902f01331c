"""Who may see the pages: a browser that has shown the token holds a signed cookie, and its forms hold a signed mark.

The cookie never holds the token. Sessions end after twelve hours, and with the server's process.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import datetime

from fastapi import Request
from fastapi.security.utils import get_authorization_scheme_param

COOKIE = "nightbatch_session"
SESSION_S = 12 * 3600


def is_token(given: str, token: str) -> bool:
    """Compare in constant time."""
    # Bytes, because compare_digest accepts only ASCII text.
    return secrets.compare_digest(given.encode(errors="replace"), token.encode())


def new_session(secret: bytes, now: datetime) -> str:
    """Return the value of a cookie for somebody who has shown the token."""
    text = f"{int(now.timestamp()) + SESSION_S}.{secrets.token_urlsafe(16)}"
    return f"{text}.{_sign(secret, 'session', text)}"


def is_session(value: str, secret: bytes, now: datetime) -> bool:
    """Return whether this is a cookie of ours that is not too old."""
    text, _, signature = value.rpartition(".")
    if not hmac.compare_digest(signature.encode(errors="replace"), _sign(secret, "session", text).encode()):
        return False
    return int(text.partition(".")[0]) > now.timestamp()


def form_mark(secret: bytes, session: str) -> str:
    """Return what a form must send along: no page of another site can know it."""
    return _sign(secret, "form", session)


def is_form_mark(given: str, secret: bytes, session: str) -> bool:
    """Return whether a form of ours, in this session, was sent."""
    return hmac.compare_digest(given.encode(errors="replace"), form_mark(secret, session).encode())


def is_in(request: Request, token: str | None, secret: bytes, now: datetime) -> bool:
    """Return whether the request may see pages: by its cookie, or by the token itself as programs send it."""
    if token is None:
        return True
    scheme, given = get_authorization_scheme_param(request.headers.get("authorization"))
    if scheme.lower() == "bearer":
        return is_token(given, token)
    return is_session(request.cookies.get(COOKIE, ""), secret, now)


def _sign(secret: bytes, purpose: str, text: str) -> str:
    return hmac.new(secret, f"{purpose}:{text}".encode(errors="replace"), hashlib.sha256).hexdigest()
