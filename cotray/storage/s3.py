"""S3 as pyarrow and boto3 speak it, by the same address, with the same patience and in few requests.

Requests are billed and, 30 ms each, waited for: a small file is written in one and read in one.
"""

from __future__ import annotations

import os
import time
from functools import cached_property, lru_cache
from typing import Any

import pyarrow.fs as pafs

CONNECT_TIMEOUT_S = 5
REQUEST_TIMEOUT_S = 30
NUM_RETRIES = 7
WAIT_S = 0.025
"""Before the second retry; before each other it is twice as long."""
MAX_WHOLE_BYTES = 64 << 20
"""Of a file that is read in one request."""
MAX_PUT_BYTES = 5 << 20
"""Of a file that is written in one request."""


class S3(pafs.S3FileSystem):
    """S3 with timeouts and retries that also hold in the processes it is sent to.

    After a throttled request or a lost connection comes the next of 7 retries, the first at once and
    each other after twice the time of the one before: 3.2 s in all. A large file is a multipart upload,
    which is completed when every part has arrived; a bucket that does not exist is never created.
    """

    def __init__(
        self, endpoint_url: str, region: str | None, *, puts_small_files_at_once: bool = False
    ) -> None:
        self._address = endpoint_url, region
        scheme, _, address = endpoint_url.rpartition("://")
        super().__init__(
            scheme=scheme or "https",
            # Without one, AWS; with one, the bucket is in the path, as MinIO and the like need it.
            endpoint_override=address.rstrip("/") or None,
            region=region,
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            # AWS's "standard" strategy waits up to 1, 2, 4, ... s: in that time it tries half as often.
            retry_strategy=pafs.AwsDefaultS3RetryStrategy(max_attempts=NUM_RETRIES),
            # Else pyarrow (26) puts an empty object under the name of a large file that it could not
            # write: a stream whose write failed is still closed, and closing it uploads. What is written
            # as a whole, in less than a part, cannot fail before.
            allow_delayed_open=puts_small_files_at_once,
            background_writes=True,
            tls_ca_file_path=os.environ.get("AWS_CA_BUNDLE") or None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # pyarrow's forgets the retry strategy. Credentials are looked up anew where it arrives.
        return S3, self._address

    @cached_property
    def _of_small_files(self) -> S3:
        return S3(*self._address, puts_small_files_at_once=True)

    def write_bytes(self, path: str, data: bytes) -> None:
        """All of a file or nothing: one request, or an upload in parts where it is large."""
        fs = self._of_small_files if len(data) < MAX_PUT_BYTES else self
        with fs.open_output_stream(path) as stream:
            stream.write(data)

    def read_bytes(self, path: str) -> bytes | None:
        """All of a file in one request; None where it is larger than MAX_WHOLE_BYTES.

        pyarrow asks for the size first. Raises FileNotFoundError, or an OSError with AWS's words.
        """
        for attempt in range(NUM_RETRIES):
            try:
                return self._get(path)
            except _PassingError:
                time.sleep(WAIT_S * 2**attempt if attempt else 0)
        try:
            return self._get(path)
        except _PassingError as error:
            raise OSError(str(error)) from None

    def _get(self, path: str) -> bytes | None:
        from botocore import exceptions as boto
        from urllib3.exceptions import HTTPError

        bucket, _, key = path.partition("/")
        try:
            client = _client_of(*self._address, num_attempts=1)
            answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{MAX_WHOLE_BYTES - 1}")
            with answer["Body"] as body:
                size = int(answer.get("ContentRange", "/0").rpartition("/")[2])
                return None if size > MAX_WHOLE_BYTES else body.read()
        except boto.ClientError as error:
            code = error.response["Error"]["Code"]
            status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
            if code in ("NoSuchKey", "404"):
                raise FileNotFoundError(path) from None
            if status == 416:  # it has no bytes to choose from
                return b""
            if status == 429 or status >= 500:
                raise _PassingError(f"AWS Error SERVICE_UNAVAILABLE {error}") from None
            raise OSError(f"AWS Error {error}") from None
        except boto.SSLError as error:
            raise OSError(f"AWS Error {error}") from None
        except (
            boto.HTTPClientError,
            boto.ConnectionError,
            boto.IncompleteReadError,
            boto.FlexibleChecksumError,
            HTTPError,
        ) as error:
            raise _PassingError(f"AWS Error NETWORK_CONNECTION {error}") from None
        except (boto.NoCredentialsError, boto.CredentialRetrievalError) as error:
            # The service that has them may have been slow, and a client would not ask it again.
            _client_of.cache_clear()
            raise _PassingError(f"AWS Error ACCESS_DENIED {error}") from None
        except boto.BotoCoreError as error:
            raise OSError(f"AWS Error {error}") from None


class _PassingError(Exception):
    """The storage is busy, or a connection was lost."""


def s3_address() -> tuple[str, str | None]:
    """Endpoint URL ("": AWS) and region (None: what AWS's configuration files say)."""
    environ = os.environ.get
    endpoint_url = environ("AWS_ENDPOINT_URL_S3") or environ("AWS_ENDPOINT_URL") or ""
    region = environ("AWS_REGION") or environ("AWS_DEFAULT_REGION")
    # Servers of one's own rarely have a region, but a request cannot be signed without one.
    return endpoint_url, region or ("us-east-1" if endpoint_url else None)


def s3_client() -> Any:
    """boto3's client, for what pyarrow cannot ask: conditional writes and the tags of contents."""
    return _client_of(*s3_address(), num_attempts=NUM_RETRIES + 1)


@lru_cache(maxsize=8)
def _client_of(endpoint_url: str, region: str | None, num_attempts: int) -> Any:
    """Kept, because making one takes as long as many requests; it renews its credentials itself."""
    from boto3.session import Session
    from botocore.config import Config

    return Session().client(
        "s3",
        endpoint_url=endpoint_url or None,
        region_name=region,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=REQUEST_TIMEOUT_S,
            retries={"total_max_attempts": num_attempts, "mode": "standard"},
        ),
    )
