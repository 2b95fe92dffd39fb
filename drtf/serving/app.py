"""The web application: its routes, and how it rejects requests."""

import asyncio
import hmac
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import (
    Depends,
    FastAPI,
    HTTPException,
    Query,
    Request,
    Response,
    params,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from drtf import __version__
from drtf.errors import DrtfError, PatientKeyError
from drtf.images.dicom_files import is_dicom
from drtf.photographs.references import PrefetchedPhotograph
from drtf.photographs.uploads import photographs_of_file
from drtf.scoring.score_table import (
    check_cells,
    describe_difference,
    encode_csv,
    encode_header,
    parse_path,
    parse_row,
)
from drtf.serving.answers import (
    HealthAnswer,
    ModelAnswer,
    ScoreAnswer,
    model_answer,
    score_answer,
)
from drtf.serving.limits import (
    EYES,
    MULTIPART,
    Limits,
    check_photographs,
    read_body,
    read_files,
)
from drtf.serving.metrics import ServiceMetrics
from drtf.serving.model_service import Answer, ModelService
from drtf.serving.origins import OwnOrigin
from drtf.serving.pages import API_PAGE, START_PAGE, load_page
from drtf.serving.unread_bodies import UnreadBodies

_log = logging.getLogger(__name__)

RETRY_SECONDS = 1
CLIENT_CLOSED = 499  # as nginx counts it; nobody receives it
MAX_TABLE_ROWS = 100_000
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
PHOTOGRAPHS_BODY = {
    "required": True,
    "content": {
        MULTIPART: {
            "schema": {
                "type": "object",
                "required": ["photograph"],
                "properties": {
                    "photograph": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "binary"},
                        "description": "One or several files: JPEG, PNG, TIFF, WebP, "
                        "BMP, GIF, JPEG 2000, PPM, AVIF, HEIC or DICOM. Each one needs "
                        "its own name, by which its row names it.",
                    },
                    "patient": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "The patient of each photograph; without this "
                        "field it is read from the names.",
                    },
                    "eye": {
                        "type": "array",
                        "items": {"enum": list(EYES)},
                        "description": "The eye of each photograph; without this field "
                        "it is read from the names.",
                    },
                },
            }
        }
    },
}
TABLE_BODY = {
    "required": True,
    "content": {"text/csv": {"schema": {"type": "string", "minLength": 1}}},
}
CSV_ANSWER = {
    "description": "The completed table.",
    "content": {"text/csv": {"schema": {"type": "string"}}},
}
TEXT_ANSWER = {
    "description": "The counters.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}


class Refusal(BaseModel):
    """Why a request was refused."""

    detail: str


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of answers with these statuses."""
    return {status: {"model": Refusal} for status in statuses}


def build_app(
    service: ModelService,
    *,
    limits: Limits,
    token: str = "",
    hosts: Sequence[str] = ("*",),
) -> FastAPI:
    """Build the web application.

    Args:
        service: The model, running.
        limits: What to accept.
        token: The bearer token that requests must have; empty for none. Without it,
            pages of other sites are refused.
        hosts: The names by which requests may call this machine; `*` allows any.
    """
    app = FastAPI(
        title="drtf",
        version=__version__,
        description="Scores photographs of the retina with one model. For research "
        "only, not for diagnosis.",
        docs_url=None,  # it would load scripts from the internet
        redoc_url=None,
    )
    metrics = ServiceMetrics()
    guarded = [Depends(_token_check(token))] if token else []
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    if not token:
        app.add_middleware(OwnOrigin)

    _answer_failures(app, metrics)
    app.add_middleware(UnreadBodies, limits=limits)
    _add_scoring(app, service, limits, metrics, guarded)
    _add_descriptions(app, service, limits, metrics, guarded)
    _add_pages(app)
    return app


class _Queue:
    """The requests that are scored or waiting, and the bytes of all in memory."""

    def __init__(self, limits: Limits, metrics: ServiceMetrics) -> None:
        self._max_waiting = limits.max_waiting
        self._max_bytes = limits.max_waiting * limits.max_request_bytes
        self._metrics = metrics
        self._num_waiting = 0
        self._size_bytes = 0

    @contextmanager
    def arrival(self) -> Iterator[Callable[[int], None]]:
        """Receive a request, which takes no place yet.

        Yields:
            A function that counts bytes of it until the end of this block. It raises
            HTTPException 429 if all requests have too many bytes.

        Raises:
            HTTPException: 429 if there is no place anyway.
        """
        own_bytes = 0

        def hold(size_bytes: int) -> None:
            nonlocal own_bytes
            if self._size_bytes + size_bytes > self._max_bytes:
                raise _busy("the requests that arrive have too many bytes")
            own_bytes += size_bytes
            self._size_bytes += size_bytes

        self._check_has_place()
        try:
            yield hold
        finally:
            self._size_bytes -= own_bytes

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place.

        Raises:
            HTTPException: 429 if there is none.
        """
        self._check_has_place()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _check_has_place(self) -> None:
        if self._num_waiting >= self._max_waiting:
            raise _busy(
                f"{self._num_waiting} requests are waiting, which is the most this "
                "service takes"
            )

    def _count(self, change: int) -> None:
        self._num_waiting += change
        self._metrics.waiting.set(self._num_waiting)


def _busy(problem: str) -> HTTPException:
    return HTTPException(
        429, f"{problem}: try again", {"Retry-After": str(RETRY_SECONDS)}
    )


def _token_check(token: str) -> Callable[..., None]:
    """Return a dependency of routes that refuses requests without the token."""
    bearer = HTTPBearer(auto_error=False)

    def check_token(
        sent: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    ) -> None:
        given = sent.credentials if sent else ""
        if not hmac.compare_digest(given.encode(), token.encode()):
            raise HTTPException(
                401,
                "this service requires its token: Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )

    return check_token


def _answer_failures(app: FastAPI, metrics: ServiceMetrics) -> None:
    """Answer failures without a word of the request, and count the answers."""

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        try:
            response = await call_next(request)
        except ClientDisconnect:
            detail = "the client closed the connection before it had sent the request"
            response = JSONResponse({"detail": detail}, CLIENT_CLOSED)
        except PatientKeyError as error:
            _log.error("%s", error)  # it names only the file with the key
            detail = "the key of the patients' pseudonyms cannot be used; see the log"
            response = JSONResponse({"detail": detail}, 503)
        except (DrtfError, MemoryError) as error:
            # Messages may have the name of a file.
            _log.error("the machine cannot score: %s", type(error).__name__)
            detail = "the machine cannot score now; memory may have run out: try again"
            response = JSONResponse({"detail": detail}, 503)
        except Exception as error:
            where = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a bug: %s\n%s", type(error).__name__, where)
            detail = "internal error; see the log of the service"
            response = JSONResponse({"detail": detail}, 500)
        route = getattr(request.scope.get("route"), "path", "other")
        metrics.requests.labels(route, response.status_code).inc()
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"detail": f"{first['loc'][-1]}: {first['msg']}"}, 422)


def _add_scoring(
    app: FastAPI,
    service: ModelService,
    limits: Limits,
    metrics: ServiceMetrics,
    guarded: list[params.Depends],
) -> None:
    """Add the routes that score photographs and complete tables."""
    queue = _Queue(limits, metrics)

    @app.post(
        "/score",
        dependencies=guarded,
        responses=refusals(400, 401, 403, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": PHOTOGRAPHS_BODY},
    )
    async def score(
        request: Request,
        overlay: Annotated[
            bool, Query(description="Whether to add heat maps, which takes longer.")
        ] = False,
    ) -> ScoreAnswer:
        """Score photographs.

        Photographs of both eyes of a patient are combined, if the model does that and
        their names have the patient and the eye, such as `17_left.jpg`, or the fields
        `patient` and `eye` state them.
        """
        start = time.perf_counter()
        with queue.arrival() as hold:
            files = await read_files(request, limits, hold)
            with queue.place():
                answers = await _score(service, files, overlay, limits)
                content = await asyncio.to_thread(
                    score_answer, service, answers, with_overlays=overlay
                )
        for answer in answers:
            metrics.count_photograph(answer.row["error"])
        seconds = time.perf_counter() - start
        metrics.seconds.observe(seconds)
        num_failed = sum(bool(answer.row["error"]) for answer in answers)
        _log.info(
            "photographs: %d (without a score: %d), in %.2f s",
            len(answers),
            num_failed,
            seconds,
        )
        return content

    @app.post(
        "/table",
        dependencies=guarded,
        response_class=Response,
        responses={200: CSV_ANSWER, **refusals(400, 401, 403, 408, 413, 422, 429)},
        openapi_extra={"requestBody": TABLE_BODY},
    )
    async def table(request: Request) -> Response:
        """Complete rows that were scored by several requests.

        Send the lines of all `uncombined` texts below one header. The answer is the
        table that drtf score writes for these photographs: both eyes of a patient are
        combined, and the probabilities are checked on all photographs together.
        """
        with queue.arrival() as hold:
            body = await read_body(request, limits, hold)
            with queue.place():
                lines = await asyncio.to_thread(_complete, service, body)
        return Response(lines, media_type="text/csv; charset=utf-8")


def _add_descriptions(
    app: FastAPI,
    service: ModelService,
    limits: Limits,
    metrics: ServiceMetrics,
    guarded: list[params.Depends],
) -> None:
    """Add the routes that describe the model and the state of the service."""
    model = model_answer(service.scorer, limits=limits, version=__version__)

    @app.get("/model", dependencies=guarded, responses=refusals(401))
    async def describe_model() -> ModelAnswer:
        """Describe the model: its hashes, training data, threshold and limits."""
        return model

    @app.get("/health", responses={503: {"model": HealthAnswer}})
    async def health(response: Response) -> HealthAnswer:
        """Return whether the model can score photographs."""
        if not service.is_alive:
            response.status_code = 503
        return HealthAnswer(status="ok" if service.is_alive else "failed")

    @app.get(
        "/metrics",
        dependencies=guarded,
        response_class=PlainTextResponse,
        responses={200: TEXT_ANSWER, **refusals(401)},
    )
    async def show_metrics() -> Response:
        """Return the counters of this service, in the text form of Prometheus."""
        text = generate_latest(metrics.registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _add_pages(app: FastAPI) -> None:
    """Add the pages."""
    pages = {name: load_page(name) for name in (START_PAGE, API_PAGE)}

    def show_page(name: str) -> HTMLResponse:
        page = pages[name]
        return HTMLResponse(page.html, headers={"Content-Security-Policy": page.policy})

    @app.get("/", include_in_schema=False)
    async def start_page() -> HTMLResponse:
        return show_page(START_PAGE)

    @app.get("/docs", include_in_schema=False)
    async def api_page() -> HTMLResponse:
        return show_page(API_PAGE)


async def _score(
    service: ModelService,
    files: Sequence[PrefetchedPhotograph],
    with_overlay: bool,
    limits: Limits,
) -> list[Answer]:
    """Score the photographs of files within the time limit.

    Raises:
        HTTPException: 413 or 422 if there are too many, 503 if this takes too long.
        DrtfError: If the machine is at fault.
        MemoryError: If memory runs out.
    """
    futures: list[Future[Answer]] = []
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            photographs = await _open_files(service, files, limits)
            futures += [
                service.submit(x, with_overlay=with_overlay) for x in photographs
            ]
            return await asyncio.gather(*map(asyncio.wrap_future, futures))
    except TimeoutError as error:
        raise HTTPException(
            503,
            f"the photographs were not scored within {limits.timeout_seconds:g} s: "
            "send fewer, or try again later",
            {"Retry-After": str(RETRY_SECONDS)},
        ) from error
    finally:
        for future in futures:
            future.cancel()


async def _open_files(
    service: ModelService, files: Sequence[PrefetchedPhotograph], limits: Limits
) -> list[PrefetchedPhotograph]:
    """Return the photographs of files.

    The files of a request are opened one after the other: each may take much memory.

    Raises:
        HTTPException: As `check_photographs`.
        DrtfError: If the key of the patients' pseudonyms cannot be loaded, or the
            machine is at fault.
    """
    photographs: list[PrefetchedPhotograph] = []
    for file in files:
        if is_dicom(file.data):
            opened = await asyncio.wrap_future(
                service.open_dicom(
                    file,
                    max_frames=limits.max_photographs,
                    max_bytes=limits.max_request_bytes,
                )
            )
            photographs += await asyncio.to_thread(photographs_of_file, file, opened)
        else:
            photographs.append(file)
        check_photographs(photographs, limits)
    return photographs


def _complete(service: ModelService, body: bytes) -> bytes:
    """Complete a table.

    Raises:
        HTTPException: 422 if a line was not made by this service's model.
    """
    lines = body.splitlines(keepends=True)[1:]
    if not 0 < len(lines) <= MAX_TABLE_ROWS:
        raise HTTPException(
            422, f"expected a header and 1 to {MAX_TABLE_ROWS:,} rows; got {len(lines)}"
        )
    common = service.scorer.common
    rows = {}
    for number, line in enumerate(lines, start=2):
        try:
            row = parse_row(line)
            check_cells(row)
        except ValueError as error:
            raise HTTPException(422, f"line {number}: {error}") from error
        if difference := describe_difference(row, common):
            raise HTTPException(422, f"line {number} was scored with {difference}")
        if row["path"] in rows:
            raise HTTPException(422, f"line {number} has a photograph a second time")
        rows[row["path"]] = line
    lines = [rows[path] for path in sorted(rows, key=parse_path)]
    return b"".join(encode_csv(encode_header(), service.scorer.complete_lines(lines)))
