"""Opening object stores: endpoints, credentials and time limits.

obstore reads most settings from the environment variables of each cloud's own tools.
This module adds what it does not read: the profiles of ~/.aws, S3_ENDPOINT,
STORAGE_EMULATOR_HOST and the variables that name a file of certificates.
"""

import functools
import importlib.util
import json
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from obstore.store import (
    AzureStore,
    GCSStore,
    HTTPStore,
    MemoryStore,
    ObjectStore,
    S3Store,
)

from drtf.errors import StorageError

CONNECT_SECONDS = 5
# A server that sends nothing for this time while an object is read is taken for dead.
# It also sends nothing while an object arrives over a slow line, or while it puts the
# parts of a large one together, so that this limit does not apply to uploads.
SILENCE_SECONDS = 15
# One request reads a part of an object, or writes a shard over a slow line.
REQUEST_SECONDS = 900
RETRIES: Any = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT")
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Credentials that obstore finds by itself.
S3_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


class Place(NamedTuple):
    """The store of a location, and the name of its object there.

    Attributes:
        store: The store, which is opened once per process.
        key: The object's name in the store, or a prefix of names.
    """

    store: ObjectStore
    key: str


def open_place(location: str, *, for_uploads: bool = False) -> Place:
    """Open the store of a location.

    Args:
        location: The location.
        for_uploads: Whether the server may be silent for a long time.

    Raises:
        StorageError: If the location or a setting of the store is invalid.
    """
    scheme, _, rest = location.partition("://")
    root, _, key = rest.partition("/")
    if scheme.startswith("http"):
        key, mark, query = key.partition("?")
        key = unquote(key)
        root += f"/{mark}{query}"
    if not root.strip("/"):
        raise StorageError(
            f"{location} names no bucket; expected {scheme}://BUCKET/FOLDER"
        )
    return Place(_open_store(scheme, root, for_uploads), key.strip("/"))


@functools.cache
def _open_store(scheme: str, root: str, for_uploads: bool) -> ObjectStore:
    seconds = REQUEST_SECONDS if for_uploads else SILENCE_SECONDS
    try:
        return OPENERS[scheme](root, seconds)
    except StorageError:
        raise
    except Exception as error:  # obstore has no common class for invalid settings
        message = str(error).partition("\n")[0]
        place = f"{scheme}://{root.partition('?')[0]}"
        raise StorageError(f"cannot open {place}: {message}") from error


def _open_s3(bucket: str, silence_seconds: int) -> ObjectStore:
    endpoint = _endpoint(*S3_ENDPOINTS)
    provider: Callable[[], Any] | None = None
    config: dict[str, Any] = {}
    if not any(map(os.environ.get, S3_CREDENTIALS)) and _has_aws_profile():
        provider, config = _load_aws_profile()
    if endpoint:
        config["endpoint"] = endpoint
    options = _client_options(config.get("endpoint", ""), silence_seconds)
    return S3Store(
        bucket,
        config=config,  # type: ignore[arg-type]
        credential_provider=provider,
        client_options=options,
        retry_config=RETRIES,
    )


def _open_gs(bucket: str, silence_seconds: int) -> ObjectStore:
    endpoint = _endpoint("STORAGE_EMULATOR_HOST")
    config: dict[str, Any] = {}
    if endpoint:  # an emulator knows no credentials
        account = {"gcs_base_url": endpoint, "disable_oauth": True}
        names = ("client_email", "private_key", "private_key_id")
        config["service_account_key"] = json.dumps(account | dict.fromkeys(names, ""))
    return GCSStore(
        bucket,
        config=config,  # type: ignore[arg-type]
        client_options=_client_options(endpoint, silence_seconds),
        retry_config=RETRIES,
    )


def _open_az(container: str, silence_seconds: int) -> ObjectStore:
    endpoint = _endpoint("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
    if os.environ.get("AZURE_STORAGE_USE_EMULATOR"):
        endpoint = endpoint or "http://127.0.0.1"
    elif not os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise StorageError(
            f"az://{container} needs the name of its account; set "
            "AZURE_STORAGE_ACCOUNT_NAME"
        )
    return AzureStore(
        container,
        client_options=_client_options(endpoint, silence_seconds),
        retry_config=RETRIES,
    )


def _open_http(scheme: str, root: str, silence_seconds: int) -> ObjectStore:
    url = f"{scheme}://{root}"  # its query becomes that of each request
    return HTTPStore.from_url(
        url,
        client_options=_client_options(url, silence_seconds),
        retry_config=RETRIES,
    )


@functools.cache
def _open_memory(bucket: str) -> ObjectStore:
    return MemoryStore()


# Each takes the name of a bucket, and the time that the server may be silent.
OPENERS: dict[str, Callable[[str, int], ObjectStore]] = {
    "s3": _open_s3,
    "gs": _open_gs,
    "az": _open_az,
    "http": functools.partial(_open_http, "http"),
    "https": functools.partial(_open_http, "https"),
    # Lives as long as the process: for tests and examples.
    "memory": lambda bucket, _: _open_memory(bucket),
}


def _client_options(endpoint: str, silence_seconds: int) -> Any:
    options = {
        "connect_timeout": f"{CONNECT_SECONDS}s",
        "read_timeout": f"{silence_seconds}s",
        "timeout": f"{REQUEST_SECONDS}s",
        "allow_http": endpoint.startswith("http://"),
    }
    for variable in CERTIFICATES:
        if path := os.environ.get(variable):
            try:
                options["root_certificate"] = Path(path).read_bytes()
            except OSError as error:
                raise StorageError(
                    f"cannot read {variable} {path}: {error.strerror}"
                ) from error
            break
    return options


def _endpoint(*variables: str) -> str:
    """Return the endpoint that the first of these variables names; empty if none.

    A connection is tried at once: obstore reports a refused one only after its retries,
    and its code panics at an invalid port.

    Raises:
        StorageError: If it is invalid or cannot be reached.
    """
    variable = next(filter(os.environ.get, variables), "")
    if not variable:
        return ""
    endpoint = os.environ[variable].rstrip("/")
    try:
        parts = urlsplit(endpoint)
        default = {"http": 80, "https": 443}[parts.scheme]
        host, port = parts.hostname or "", parts.port or default
    except (ValueError, KeyError):
        host, port = "", 0
    if not host:
        raise StorageError(
            f"{variable} must be http://HOST:PORT or https://HOST:PORT; got "
            f"{endpoint!r}"
        )
    if not _has_proxy(parts.scheme):
        try:
            socket.create_connection((host, port), CONNECT_SECONDS).close()
        except OSError as error:
            raise StorageError(
                f"cannot reach {variable} {endpoint}: {error.strerror or error}"
            ) from error
    return endpoint


def _has_proxy(scheme: str) -> bool:
    names = (f"{scheme}_proxy", "all_proxy")
    return any(os.environ.get(name) or os.environ.get(name.upper()) for name in names)


def _has_aws_profile() -> bool:
    files = {
        "AWS_CONFIG_FILE": "~/.aws/config",
        "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
    }
    return bool(os.environ.get("AWS_PROFILE")) or any(
        Path(os.environ.get(variable) or path).expanduser().exists()
        for variable, path in files.items()
    )


def _load_aws_profile() -> tuple[Callable[[], Any] | None, dict[str, Any]]:
    """Return the credential provider of an AWS profile, and its other settings.

    Raises:
        StorageError: If boto3 is missing, or the profile is invalid.
    """
    if importlib.util.find_spec("boto3") is None:
        raise StorageError(
            "the profiles in ~/.aws require boto3: pip install 'drtf[s3]', or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    import boto3
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        session = boto3.Session()
        if session.get_credentials() is None:  # a profile with other settings only
            return None, {"region": session.region_name} if session.region_name else {}
        provider = Boto3CredentialProvider(session)
        provider()  # an expired SSO session is an error here, with its reason
        config: dict[str, Any] = dict(provider.config)
        endpoint = session.client("s3").meta.endpoint_url
    except BotoCoreError as error:
        raise StorageError(f"cannot use the AWS profile: {error}") from error
    if not str(urlsplit(endpoint).hostname).endswith(
        ("amazonaws.com", "amazonaws.com.cn")
    ):
        config["endpoint"] = endpoint
    return provider, config
