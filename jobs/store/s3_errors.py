"""The meaning of S3 failures: whether to retry, and what to tell the user."""

from __future__ import annotations

from botocore.exceptions import (
    ClientError,
    ConfigNotFound,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from jobs.errors import StoreError, StoreSilent

_TRANSIENT_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "TooManyRequests",
}
_CREDENTIALS_HINT = (
    "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; "
    "`aws sts get-caller-identity` shows who you are."
)
_BY_CODE = {
    "InvalidAccessKeyId": ("does not know the access key", _CREDENTIALS_HINT),
    "SignatureDoesNotMatch": ("refuses the secret key", _CREDENTIALS_HINT),
    "InvalidToken": ("refuses the session token", _CREDENTIALS_HINT),
    "ExpiredToken": ("refuses the session token, which has expired", "Sign in again, then run the command again."),
    "AccessDenied": (
        "denies access",
        "Ask for s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket there, or use other credentials.",
    ),
    "RequestTimeTooSkewed": ("finds this machine's clock wrong", "Set the clock (NTP), then run the command again."),
    "NoSuchBucket": ("has no such bucket", "Check the name and the endpoint (AWS_ENDPOINT_URL), or create the bucket."),
    "PermanentRedirect": ("keeps the bucket in another region", "Set AWS_DEFAULT_REGION to the bucket's region."),
    "AuthorizationHeaderMalformed": (
        "keeps the bucket in another region",
        "Set AWS_DEFAULT_REGION to the bucket's region.",
    ),
    "InvalidBucketName": ("refuses the bucket's name", "Check the name in the s3:// address."),
    "EntityTooLarge": ("refuses an object of this size", "Lower the shard size: one object holds at most 5 GiB."),
    "NotModified": (
        "answers a conditional write with 304, as MinIO did before April 2024",
        "Upgrade the store: it must answer If-None-Match with 412, and keep that promise when two write at once.",
    ),
    "NotImplemented": (
        "lacks conditional writes (If-None-Match)",
        "Use AWS S3 or a recent S3-compatible store; write-once rests on it.",
    ),
}
_BY_STATUS = {
    301: "PermanentRedirect",
    304: "NotModified",
    307: "PermanentRedirect",
    403: "AccessDenied",
    501: "NotImplemented",
}
"""Error codes by HTTP status, for answers to HEAD, which have no body and so no code."""


def status_of(error: ClientError) -> int:
    """Return the HTTP status; 0 if unknown."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    """Return S3's error code; for answers without a body, the code that stands for their status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return _BY_STATUS.get(int(code), code) if code.isdigit() else code


def is_missing(error: ClientError) -> bool:
    """Return whether the object is missing. A missing bucket does not count, except for HEAD, which cannot tell."""
    return code_of(error) in ("NoSuchKey", "NotFound", "404")


def is_transient(error: BaseException) -> bool:
    """Return whether the same request may succeed later. The failed try may still have been carried out."""
    if isinstance(error, ClientError):
        status = status_of(error)
        return status in (408, 429) or (status >= 500 and status != 501) or code_of(error) in _TRANSIENT_CODES
    if isinstance(error, SSLError):
        return False
    return isinstance(error, HTTPClientError | BotoConnectionError | IncompleteReadError | ResponseParserError)


def explain(error: Exception, uri: str, endpoint: str) -> StoreError:
    """Build the error, with message and hint, for a failure that retries did not cure. It quotes no credentials."""
    if isinstance(error, ClientError):
        code = code_of(error)
        said, hint = _BY_CODE.get(code, (f"answers {code or status_of(error)}", "Run the command again."))
        if is_transient(error):
            hint = "It is overloaded or down; run the command again later: nothing done is lost."
        return StoreError(f"Cannot use {uri}: {endpoint} {said}.", hint)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return StoreError(f"Cannot use {uri}: there are no complete AWS credentials here.", _CREDENTIALS_HINT)
    if isinstance(error, CredentialRetrievalError | TokenRetrievalError | ProfileNotFound | ConfigNotFound):
        return StoreError(f"Cannot use {uri}: the AWS credentials cannot be loaded.", _CREDENTIALS_HINT)
    if isinstance(error, SSLError):
        return StoreError(
            f"Cannot use {uri}: {endpoint} has a TLS certificate that is not trusted here.",
            "Set AWS_CA_BUNDLE to the certificate authority's file.",
        )
    if is_transient(error):
        return StoreSilent(
            f"Cannot use {uri}: {endpoint} does not answer ({type(error).__name__}).",
            "Check the network and AWS_ENDPOINT_URL, then run the command again: nothing done is lost.",
        )
    return StoreError(f"Cannot use {uri}: {type(error).__name__}.", "Check the AWS settings of this machine.")
