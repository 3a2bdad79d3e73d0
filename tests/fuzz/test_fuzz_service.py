"""HTTP requests of any content: answered or refused in the service's words, with no status of the 500s."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz_service import SERVICE_EXAMPLES, Client, check_request, requests
from fuzz_targets import SLOW_TIMES, Target, new_seed, run_target

from equipoise.serving import Limits, create_app

serving_fixtures = pytest.importorskip("serving_fixtures")
fake = serving_fixtures.fake


@pytest.fixture
def client(fake: Callable[..., Any]) -> Iterator[Client]:
    _, folder = fake()
    client = Client(create_app(folder, limits=Limits(files=4, files_bytes=1 << 20)))
    yield client
    client.close()


def target_of(kind: str, client: Client) -> Target:
    return Target(
        SERVICE_EXAMPLES[kind], lambda: requests(kind), lambda request, folder: check_request(client, request)
    )


@pytest.mark.parametrize("kind", SERVICE_EXAMPLES)
def test_any_request_is_answered_or_refused(kind: str, client: Client, tmp_path: Path) -> None:
    target = target_of(kind, client)
    assert run_target(target, tmp_path, target.examples) >= target.examples


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("kind", SERVICE_EXAMPLES)
def test_any_request_of_very_many(kind: str, client: Client, tmp_path: Path) -> None:
    target = target_of(kind, client)
    seed = new_seed()
    print(f"{kind}: seed {seed}")
    tried = run_target(target, tmp_path, target.examples * SLOW_TIMES, seed)
    print(f"{kind}: {tried} inputs")
    assert tried >= target.examples * SLOW_TIMES
