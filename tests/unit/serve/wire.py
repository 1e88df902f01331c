"""Requests byte by byte, as no well-kept client sends them."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from tests.unit.serve.conftest import TOKEN


def connect(url: str, data: bytes = b"") -> socket.socket:
    """A connection that has sent some bytes."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    client = socket.create_connection((address.hostname, address.port), timeout=20)
    client.sendall(data)
    return client


def head(line: str, *, token: str = TOKEN, **headers: str) -> bytes:
    """The head of a request."""
    given = {"Host": "localhost", "Authorization": f"Bearer {token}"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    return "\r\n".join([f"{line} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items()), "", ""]).encode()


def upload_head(length: int, token: str = TOKEN) -> bytes:
    """The head of an upload whose body may follow or not."""
    return head(
        "POST /v1/files", token=token, Content_Type="multipart/form-data; boundary=b", Content_Length=str(length)
    )


def status(client: socket.socket, timeout_s: float = 20) -> int | None:
    """Status of the answer; None where the connection ends without one."""
    client.settimeout(timeout_s)
    try:
        answer = client.recv(65_536)
    except ConnectionError:
        return None
    return int(answer.split(b" ", 2)[1]) if answer else None
