"""Both servers held against the vendor's own description of the API, by generated requests.

Good requests must get an answer that the description knows, in status, type and shape; bad ones
must be refused; neither may crash the server. Schemathesis makes the requests, the same each run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import schemathesis
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support import service_spec
from tests.support.service_caller import Caller
from tests.support.service_pair import KINDS, Served, recording, served

Operation = APIOperation[Any, Any, Any, Any]

DESCRIBED = service_spec.repaired()
SPEC = schemathesis.openapi.from_dict(DESCRIBED, config=schemathesis.Config())
OPERATIONS = [
    f"{method.upper()} {path}" for path, methods in DESCRIBED["paths"].items() for method in methods
]
REFUSABLE = [
    "POST /v2/transcript",
    "GET /v2/transcript",
    "GET /v2/transcript/{transcript_id}/{subtitle_format}",
    "GET /v2/transcript/{transcript_id}/word-search",
]
"""Where a request can be wrong in more than its id."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A server with transcripts in it."""

    server: Served
    upload_url: str
    ids: list[str]
    """Completed, failed, deleted, and one that is not there."""
    spare_id: str
    """For the operation that deletes."""


async def prepare(server: Served) -> Prepared:
    async with aiohttp.ClientSession() as http:
        caller = Caller(server.url, server.key, http)
        contents = [recording(), b"not audio", recording(1), recording(2)]
        done, bad, gone, spare = [(await caller.transcribed(content))["id"] for content in contents]
        await caller.call("DELETE", f"transcript/{gone}")
        upload_url = await caller.upload(recording())
    absent = "6f0b2c1e-5d1a-4f0e-9a55-0f3b1c7e1a01"
    return Prepared(server, upload_url, [done, bad, gone, absent], spare)


@pytest.fixture(scope="module", params=KINDS)
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    state = tmp_path_factory.mktemp("state")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(served(request.param, state)) as server,
    ):
        yield portal.call(prepare, server)


@pytest.mark.parametrize(
    ("label", "mode"),
    [(label, GenerationMode.POSITIVE) for label in OPERATIONS]
    + [(label, GenerationMode.NEGATIVE) for label in REFUSABLE],
)
def test_operation_keeps_to_the_description(
    prepared: Prepared, label: str, mode: GenerationMode
) -> None:
    """Whatever is sent to it, an operation answers as the vendor's description allows."""
    method, path = label.split()
    ids = [prepared.spare_id] if method == "DELETE" else prepared.ids
    fixed = [{"transcript_id": one} for one in ids] if "{transcript_id}" in path else [None]
    cases = st.one_of(
        *(
            SPEC[path][method].as_strategy(generation_mode=mode, path_parameters=parameters)
            for parameters in fixed
        )
    )

    @settings(
        max_examples=25,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def keep(case: Case[Operation]) -> None:
        case.call_and_validate(
            base_url=prepared.server.url,
            headers={"Authorization": prepared.server.key},
            checks=CHECKS,
        )

    keep()


def test_whole_submit_keeps_to_the_description(prepared: Prepared) -> None:
    """The answer to a plain good submit has the shape that the description gives it."""
    case = SPEC["/v2/transcript"]["POST"].Case(
        body={"audio_url": prepared.upload_url, "speech_models": ["universal-2"]},
        media_type="application/json",
    )
    answer = case.call_and_validate(
        base_url=prepared.server.url,
        headers={"Authorization": prepared.server.key},
        checks=CHECKS,
    )

    assert answer.status_code == 200
