"""What it means when S3 refuses or fails: one of our errors, with a sentence that says what to do.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore import exceptions as boto_errors

from bc_tasks.errors import AlreadyExists, BcError, ConfigError, DataError, InfrastructureError, ObjectNotFound

NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
)
BROKEN_BODY = (
    boto_errors.ChecksumError,
    boto_errors.FlexibleChecksumError,
    boto_errors.IncompleteReadError,
    boto_errors.ReadTimeoutError,
    boto_errors.ResponseStreamingError,
)

Meaning = tuple[type[BcError], str]

_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_NO_OBJECT: Meaning = (ObjectNotFound, "nothing is stored under {uri} at {address}")
_OLD_TOKEN: Meaning = (ConfigError, "{address} says that the session token is invalid or expired: sign in again")
_OTHER_REGION: Meaning = (
    ConfigError,
    "the bucket {bucket} is in another region than the one asked: set AWS_DEFAULT_REGION",
)
_DENIED: Meaning = (
    ConfigError,
    "{address} refuses {operation} on {uri}: grant that right (and s3:ListBucket, or missing objects are refused too)",
)
_CHANGED: Meaning = (InfrastructureError, "{uri} was changed or replaced since it was listed; list again")
_TAKEN: Meaning = (AlreadyExists, "{uri} is there already")
_OTHER: Meaning = (ConfigError, "{address} refuses {operation} on {uri}: {code}, {message}")
_SPOILED: Meaning = (InfrastructureError, "{uri} arrived damaged at {address} ({code}); trying again can help")
_BUSY: Meaning = (
    InfrastructureError,
    "{address} could not serve {operation} on {uri} now ({code}); trying again can help",
)

_MEANINGS: dict[str, Meaning] = {
    "NoSuchBucket": (
        ConfigError,
        "the bucket {bucket} does not exist at {address}: create it, or correct the URI or AWS_ENDPOINT_URL_S3",
    ),
    "InvalidBucketName": (ConfigError, "{bucket} can't be the name of a bucket: correct the URI {uri}"),
    "NoSuchKey": _NO_OBJECT,
    "NoSuchVersion": _NO_OBJECT,
    "404": _NO_OBJECT,
    "InvalidAccessKeyId": (ConfigError, f"{{address}} doesn't know the access key: {_KEYS}"),
    "SignatureDoesNotMatch": (ConfigError, f"the secret key doesn't fit the access key at {{address}}: {_KEYS}"),
    "ExpiredToken": _OLD_TOKEN,
    "InvalidToken": _OLD_TOKEN,
    "TokenRefreshRequired": _OLD_TOKEN,
    "RequestTimeTooSkewed": (ConfigError, "this machine's clock differs from that of {address}: set it, e.g. by NTP"),
    "AccessDenied": _DENIED,
    "AllAccessDisabled": _DENIED,
    "403": _DENIED,
    "301": _OTHER_REGION,
    "PermanentRedirect": _OTHER_REGION,
    "AuthorizationHeaderMalformed": _OTHER_REGION,
    "NotImplemented": (ConfigError, "the server at {address} can't do {operation} as it is needed for {uri}"),
    "InvalidRange": (
        DataError,
        "{uri} at {address} is shorter than it should be: it was cut off, or is another object",
    ),
    "BadDigest": _SPOILED,
    "IncompleteBody": _SPOILED,
    "XAmzContentChecksumMismatch": _SPOILED,
    "ConditionalRequestConflict": _BUSY,
    "OperationAborted": _BUSY,
    "RequestTimeout": _BUSY,
    "SlowDown": _BUSY,
    "TooManyRequests": _BUSY,
}


@contextmanager
def translated(uri: str, address: str) -> Iterator[None]:
    """Raise what boto3 raises over `uri` at the server `address` as one of our errors."""
    try:
        yield
    except boto_errors.ClientError as error:
        raise refused(
            code=error.response["Error"]["Code"],
            message=error.response["Error"].get("Message", ""),
            status=error.response["ResponseMetadata"]["HTTPStatusCode"],
            operation=error.operation_name,
            uri=uri,
            address=address,
        ) from error
    except NO_CREDENTIALS as error:
        raise ConfigError(
            f"no usable credentials for {address} ({type(error).__name__}): set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        ) from error
    except boto_errors.ParamValidationError as error:
        raise ConfigError(f"{uri} is no S3 URI: {error}") from error
    except boto_errors.SSLError as error:
        raise ConfigError(f"{address} has no trusted certificate: set AWS_CA_BUNDLE to its authority's") from error
    except BROKEN_BODY as error:
        raise InfrastructureError(
            f"{uri} broke off or was damaged between here and {address} ({type(error).__name__}), at every attempt"
        ) from error
    except boto_errors.BotoCoreError as error:
        raise InfrastructureError(
            f"{address} didn't answer for {uri} ({type(error).__name__}): is it running and reachable from here?"
        ) from error


def refused(code: str, message: str, status: int, *, operation: str, uri: str, address: str) -> BcError:
    """Return our error for the `code`, `message` and HTTP `status` that the S3 server at `address` has answered."""
    kind, sentence = _meaning(code, status, operation)
    bucket = uri.removeprefix("s3://").partition("/")[0]
    return kind(
        sentence.format(address=address, bucket=bucket, code=code, message=message, operation=operation, uri=uri)
    )


def _meaning(code: str, status: int, operation: str) -> Meaning:
    if code == "PreconditionFailed":
        return _CHANGED if operation == "GetObject" else _TAKEN
    if code in _MEANINGS:
        return _MEANINGS[code]
    return _BUSY if status >= 500 or status == 429 else _OTHER
