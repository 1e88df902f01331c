"""Reading the short forms of the pages."""

from __future__ import annotations

from urllib.parse import parse_qs

from fastapi import Request
from starlette.exceptions import HTTPException

MAX_BYTES = 16 * 2**10


async def read_form(request: Request) -> dict[str, str]:
    """Read a form: the first value of each name.

    Raises:
        HTTPException: it is too long, or no form.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise HTTPException(413, "The form is too long.")
    try:
        values = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        raise HTTPException(400, "This is not a form.") from None
    return {name: given[0] for name, given in values.items()}
