"""Limits of a service, and the bodies of requests, which stay in memory."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from fastapi import HTTPException, Request
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from drtf.photographs.references import PrefetchedPhotograph
from drtf.photographs.uploads import photograph_from_bytes
from drtf.serving.slow_clients import in_time

MAX_NAME_LENGTH = 200
EYES = ("", "left", "right")
MULTIPART = "multipart/form-data"


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        max_photographs: Number of photographs per request.
        max_request_bytes: Size of a request.
        max_waiting: Number of requests that are scored or waiting at the same time.
            Further requests get status 429, and so do requests that arrive while all
            bodies together exceed `max_waiting` times `max_request_bytes`.
        timeout_seconds: Time to receive a request, and again to answer it.
    """

    max_photographs: int = 16
    max_request_bytes: int = 100_000_000
    max_waiting: int = 16
    timeout_seconds: float = 120.0


class _MemoryParser(MultiPartParser):
    """A parser that never writes an uploaded file to the disk."""

    spool_max_size = sys.maxsize
    max_file_size = sys.maxsize  # its name before Starlette 0.46


async def read_files(
    request: Request, limits: Limits, hold: Callable[[int], None]
) -> list[PrefetchedPhotograph]:
    """Read the files of a multipart request, and the fields that describe them.

    Args:
        request: The request.
        limits: What it may have.
        hold: Called with the number of bytes of each part that arrives. Raises
            HTTPException to refuse them.

    Raises:
        HTTPException: 408 if the client is too slow, 413 if the request is too large,
            415 if it is not multipart, 422 if it has no files or too many, or its
            fields `patient` and `eye` do not fit.
    """
    if not request.headers.get("content-type", "").startswith(MULTIPART):
        raise HTTPException(415, f"expected a request of the type {MULTIPART}")
    parser = _MemoryParser(
        request.headers,
        _receive(request, limits, hold),
        max_files=limits.max_photographs,
        max_fields=2 * limits.max_photographs,
    )
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            form = await parser.parse()
    except TimeoutError as error:
        raise _too_slow() from error
    except MultiPartException as error:
        raise HTTPException(422, error.message) from error
    try:
        uploads = [x for _, x in form.multi_items() if isinstance(x, UploadFile)]
        if not uploads:
            raise HTTPException(
                422, "the request has no photograph: send files in the field photograph"
            )
        patients = _stated(form, "patient", len(uploads))
        eyes = _stated(form, "eye", len(uploads))
        if not set(eyes) <= set(EYES):
            raise HTTPException(422, "the field eye must be left, right or empty")
        files = [
            photograph_from_bytes(
                _path_of(upload, number), await upload.read(), patient=patient, eye=eye
            )
            for number, (upload, patient, eye) in enumerate(
                zip(uploads, patients, eyes, strict=True), start=1
            )
        ]
    finally:
        await form.close()
    return files


def check_photographs(
    photographs: Sequence[PrefetchedPhotograph], limits: Limits
) -> None:
    """Refuse the photographs of files, of which a DICOM file may have several.

    Raises:
        HTTPException: 413 or 422 if there are too many: the frames of a small file may
            be very large.
    """
    if len(photographs) > limits.max_photographs:
        raise HTTPException(
            422,
            f"the files have more than {limits.max_photographs} frames: send fewer",
        )
    if sum(len(x.data) for x in photographs) > limits.max_request_bytes:
        raise HTTPException(
            413,
            f"the frames of the files are larger than {limits.max_request_bytes:,} "
            "bytes: send fewer",
        )
    if len({x.path for x in photographs}) < len(photographs):
        raise HTTPException(
            422, "two photographs have the same name: give each one its own"
        )


async def read_body(
    request: Request, limits: Limits, hold: Callable[[int], None]
) -> bytes:
    """Read the body of a request.

    Args:
        request: The request, and the others are as for `read_files`.
        limits: What it may have.
        hold: Called for each part.

    Raises:
        HTTPException: 408 if the client is too slow, 413 if the body is too large.
    """
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            return b"".join([chunk async for chunk in _receive(request, limits, hold)])
    except TimeoutError as error:
        raise _too_slow() from error


async def _receive(
    request: Request, limits: Limits, hold: Callable[[int], None]
) -> AsyncGenerator[bytes, None]:
    size_bytes = 0
    async for chunk in in_time(request.stream()):
        hold(len(chunk))
        size_bytes += len(chunk)
        if size_bytes > limits.max_request_bytes:
            raise HTTPException(
                413,
                f"the request is larger than {limits.max_request_bytes:,} bytes: send "
                "fewer or smaller photographs",
            )
        yield chunk


def _stated(form: FormData, field: str, num_photographs: int) -> list[str]:
    """Return the values of a field, one per photograph; empty if there is none.

    Raises:
        HTTPException: 422 if there are some, but not one per photograph.
    """
    values = [x for x in form.getlist(field) if isinstance(x, str)]
    if values and len(values) != num_photographs:
        raise HTTPException(
            422,
            f"the field {field} is given {len(values)} times for {num_photographs} "
            "photographs: give it once per photograph, or not at all",
        )
    return values or [""] * num_photographs


def _path_of(upload: UploadFile, number: int) -> str:
    """Return a relative path for an uploaded file, by which its row names it."""
    parts = (upload.filename or "").replace("\\", "/").split("/")
    path = "/".join(part for part in parts if part.strip(". "))
    return path[-MAX_NAME_LENGTH:].lstrip("/") or f"photograph-{number}"


def _too_slow() -> HTTPException:
    return HTTPException(408, "the request arrives too slowly: send fewer photographs")
