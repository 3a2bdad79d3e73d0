"""What the service says of itself in OpenAPI is true of every answer, whatever schemathesis thinks of to send."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import serving_fixtures
from hypothesis import HealthCheck, Phase, given, settings
from serving_helpers import client_of, serving, wait_until
from wire_helpers import tell

import equipoise as eq
from equipoise.serving import Limits

schemathesis = pytest.importorskip("schemathesis", reason="the schema test needs schemathesis")

trained = serving_fixtures.trained
fake = serving_fixtures.fake

TOKEN = "s3cret-Token"
OPERATIONS = [
    "POST /predict", "POST /explain", "POST /files", "GET /files/{id}", "GET /files/{id}/result", "DELETE /files/{id}",
    "GET /info", "GET /health", "GET /metrics", "POST /runs/{name}/reload",
]  # fmt: skip


@pytest.fixture(scope="module")
def service(trained: eq.Run) -> Iterator[tuple[str, Any]]:
    limits = Limits(characters_per_explanation=50, file_age_s=3600.0, files=10_000)
    with serving(trained, token=TOKEN, precision="fp32", limits=limits) as (url, server):
        yield url, server


def schema_of(url: str) -> Any:
    """The schema as a client gets it."""
    import json

    asked = (
        f"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    )
    raw = json.loads(tell(url, asked.encode()).partition(b"\r\n\r\n")[2])
    return schemathesis.openapi.from_dict(raw)


def a_table(url: str) -> str:
    """The id of a table that is done."""
    content = "text\nstrong profit\n"
    sent = (
        f"POST /files?name=in.csv HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n"
        f"Content-Length: {len(content)}\r\n\r\n{content}"
    )
    id_ = tell(url, sent.encode()).rpartition(b'"id":"')[2].partition(b'"')[0].decode()
    ask = f"GET /files/{id_} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    wait_until(lambda: b'"done"' in tell(url, ask.encode()))
    return id_


def explore(url: str, operation: str, examples: int) -> Counter[int]:
    """Sends what schemathesis makes up, valid and invalid, and checks every answer; gives the statuses seen."""
    from schemathesis import GenerationMode
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi import checks

    load_all_checks()
    asked = [
        not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_headers_conformance, checks.response_schema_conformance, checks.negative_data_rejection,
        checks.missing_required_header, checks.unsupported_method, checks.allow_header_conformance, checks.ignored_auth,
    ]  # fmt: skip
    method, path = operation.split(" ")
    api = schema_of(url)[path][method]
    seen: Counter[int] = Counter()
    kept = a_table(url) if "{id}" in path else ""
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        try:
            strategy = api.as_strategy(generation_mode=mode)
            strategy.validate()
        except Exception as error:
            if mode is GenerationMode.NEGATIVE and type(error).__name__ in {"Unsatisfiable", "SkipTest"}:
                continue  # nothing can be wrong in a request that takes nothing
            raise

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            deadline=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def send(case: Any) -> None:
            if "{id}" in path and sum(seen.values()) % 3 == 0:
                case.path_parameters["id"] = a_table(url) if method == "DELETE" else kept
            elif "{name}" in path and sum(seen.values()) % 5 == 0:
                case.path_parameters["name"] = "reviews"
            answer = case.call_and_validate(
                base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, checks=asked, timeout=60
            )
            seen[answer.status_code] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of schemathesis and what it stands on, not ours
            try:
                send()
            except Exception as error:
                if type(error).__name__ in {"Unsatisfiable", "SkipTest"} and mode is GenerationMode.NEGATIVE:
                    continue
                raise
    return seen


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_one_that_the_schema_tells(service: tuple[str, Any], operation: str) -> None:
    seen = explore(service[0], operation, 12)
    # Where nothing can be sent, there is one request to send. Names of tables that end as they must are rarely made up.
    assert sum(seen.values()) >= (1 if operation in {"GET /info", "GET /health", "GET /metrics"} else 10), seen
    assert operation == "POST /files" or any(200 <= status < 300 for status in seen), seen
    assert not [status for status in seen if status >= 500], seen


@pytest.mark.slow
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_answer_is_one_that_the_schema_tells_at_length(service: tuple[str, Any], operation: str) -> None:
    seen = explore(service[0], operation, 80)
    print(f"schemathesis {operation}: {sum(seen.values())} answers, {dict(sorted(seen.items()))}")
    assert operation == "POST /files" or any(200 <= status < 300 for status in seen), seen
    assert not [status for status in seen if status >= 500], seen


def test_no_operation_is_left_out(service: tuple[str, Any]) -> None:
    found = {
        f"{method.upper()} {path}"
        for path, methods in schema_of(service[0]).raw_schema["paths"].items()
        for method in methods
        if method != "parameters"
    }
    assert found == set(OPERATIONS)


def test_the_schema_tells_of_the_token_where_there_is_one(fake: Any) -> None:
    _, folder = fake()
    with client_of(folder) as client:
        assert "security" not in client.get("/openapi.json").json()
    with client_of(folder, token=TOKEN) as client:
        told = client.get("/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()
    assert told["security"] == [{"token": []}]
    assert told["components"]["securitySchemes"] == {"token": {"type": "http", "scheme": "bearer"}}
    assert told["paths"]["/health"]["get"]["security"] == []
    assert "security" not in told["paths"]["/predict"]["post"]
    assert TOKEN not in str(told)


def test_nothing_is_left_of_what_schemathesis_sent(service: tuple[str, Any]) -> None:
    """The last of this file: what is in progress and what waits is back at nothing."""
    _, server = service
    wait_until(lambda: server._service.state.busy == 0)
    assert server._service.state.bodies == 0
    assert server._service.runs.get(None).worker.waiting == (0, 0)
