"""The service answers whatever its schema allows as its schema says, and worse too."""

from concurrent.futures import Future

import pytest
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis")

from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from drtf.models.run import load_run  # noqa: E402
from drtf.photographs.prepare import Rejected  # noqa: E402
from drtf.photographs.uploads import open_dicom  # noqa: E402
from drtf.scoring.scorer import Scorer  # noqa: E402
from drtf.serving.app import build_app  # noqa: E402
from drtf.serving.limits import Limits  # noqa: E402
from drtf.serving.model_service import Answer  # noqa: E402

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


class FakeService:
    """A service without a network, which has no score for any photograph."""

    is_alive = True

    def __init__(self, scorer):
        self.scorer = scorer

    def open_dicom(self, file, **limits):
        return finished(open_dicom(file, **limits))

    def submit(self, photograph, *, with_overlay):
        rejected = Rejected(photograph.path, "undecodable", "no network")
        return finished(Answer(self.scorer.row(photograph, rejected, None)))


def finished(result):
    future = Future()
    future.set_result(result)
    return future


@pytest.fixture(scope="module")
def service_schema(run_folder, config):
    scorer = Scorer(load_run(run_folder), config.score, "")
    limits = Limits(max_photographs=2, max_request_bytes=10_000)
    app = build_app(FakeService(scorer), limits=limits)
    return schemathesis.openapi.from_asgi("/openapi.json", app)


def test_answers_are_those_of_the_schema(service_schema):
    operations = [x.ok() for x in service_schema.get_all_operations()]
    assert {x.path for x in operations} >= {"/score", "/table", "/model", "/health"}
    for operation in operations:

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy())
        def check(case):
            case.call_and_validate(checks=CHECKS)

        check()
