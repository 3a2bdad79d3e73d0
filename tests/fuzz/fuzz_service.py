"""Requests of any content, given to the application itself: no server, no socket, so that many can be tried."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

TESTS = Path(__file__).parents[1]
if str(TESTS / "serving") not in sys.path:
    sys.path.insert(0, str(TESTS / "serving"))

from fuzz_inputs import cells, csv_tables, damaged, json_lines, json_values, names  # noqa: E402

__all__ = ["SERVICE_EXAMPLES", "Client", "check_request", "requests"]

SERVICE_EXAMPLES = {"bodies": 350, "uploads": 60}

texts = st.one_of(cells, st.lists(cells, max_size=3), json_values)
bodies = st.one_of(
    st.fixed_dictionaries({"texts": st.lists(texts, max_size=4)}),
    st.fixed_dictionaries({"text": texts}),
    st.fixed_dictionaries(
        {"text": cells, "task": st.one_of(st.just("length"), cells)}, optional={"target": cells, "run": cells}
    ),
    st.dictionaries(
        st.one_of(st.sampled_from(["texts", "text", "run", "task", "target"]), names), json_values, max_size=4
    ),
    json_values,
)


@st.composite
def requests(draw: Callable[..., Any], kind: str) -> dict[str, Any]:
    """A request as ASGI has it: method, path, query, headers and the body in pieces."""
    if kind == "bodies":
        path = draw(
            st.sampled_from(
                ["/predict", "/predict", "/predict", "/explain", "/files", "/info", "/runs/x/reload", "/nothing"]
            )
        )
        body = json.dumps(draw(bodies), ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
        query = b""
    else:
        path = "/files"
        body = draw(st.one_of(csv_tables(), json_lines(), st.binary(max_size=60)))
        name = draw(
            st.one_of(st.sampled_from(["t.csv", "t.jsonl", "t.tsv", "t.parquet", "../t.csv", "t.csv.gz"]), cells)
        )
        from urllib.parse import quote_from_bytes

        query = b"name=" + quote_from_bytes(name.encode("utf-8", "surrogatepass")).encode()
    if draw(st.integers(0, 3)) == 0:
        body = draw(damaged(body))
    headers = [(b"host", b"localhost")]
    if draw(st.integers(0, 9)):
        headers.append((b"content-type", b"application/json"))
    else:
        headers.append((b"content-type", draw(st.binary(max_size=20))))
    length = draw(st.sampled_from(["true", "true", "true", "none", "wrong", "odd"]))
    if length == "true":
        headers.append((b"content-length", str(len(body)).encode()))
    elif length == "wrong":
        headers.append(
            (
                b"content-length",
                draw(st.sampled_from([b"0", b"1", b"99999999999999999999", b"-1", "²".encode(), b"1e3"])),
            )
        )
    elif length == "odd":
        headers.append(
            (
                draw(st.sampled_from([b"content-encoding", b"authorization", b"origin", b"x-y"])),
                draw(st.binary(max_size=12)),
            )
        )
    cut = draw(st.integers(0, len(body)))
    pieces = draw(st.sampled_from([[body], [body[:cut], body[cut:]], [b"", body, b""]]))
    method = draw(st.sampled_from(["POST", "POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD"]))
    gone = draw(st.integers(0, 19)) == 0
    return {"method": method, "path": path, "query": query, "headers": headers, "pieces": pieces, "gone": gone}


class Client:
    """Calls an application in an event loop of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._loop = asyncio.new_event_loop()

    def send(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer; 0 where there is none, because the client has gone."""
        return self._loop.run_until_complete(asyncio.wait_for(self._send(request), 60))

    def close(self) -> None:
        """Ends what the application runs."""
        self.app.state.equipoise.close()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _send(self, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request["method"], "scheme": "http",
            "path": request["path"], "raw_path": request["path"].encode(), "query_string": request["query"], "root_path": "",
            "headers": request["headers"], "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        pieces = list(request["pieces"])
        answer: dict[str, Any] = {"status": 0, "headers": {}, "body": b""}
        answered = asyncio.Event()

        async def receive() -> dict[str, Any]:
            if pieces and not (request["gone"] and len(pieces) == 1):
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces)}
            if not request["gone"]:
                await answered.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                answer["headers"] = {
                    key.decode("latin-1"): value.decode("latin-1") for key, value in message["headers"]
                }
            elif message["type"] == "http.response.body":
                answer["body"] += message.get("body", b"")
                if not message.get("more_body"):
                    answered.set()

        await self.app(scope, receive, send)
        return answer["status"], answer["headers"], answer["body"]


def check_request(client: Client, request: dict[str, Any]) -> None:
    """Done or refused, in the service's words; never a failure of the service."""
    status, headers, body = client.send(request)
    if request["gone"] and status in (0, 499):
        return
    assert 200 <= status < 500, (status, body[:500])
    assert b"Traceback" not in body
    if status >= 400 and request["method"] != "HEAD":
        told = json.loads(body)["error"]
        assert set(told) == {"what", "where", "how"}
        assert told["what"]
        assert told["how"]
        assert min(body) >= 0x20, "a control character that is not escaped"
        assert len(body) < 10_000
    elif headers.get("content-type", "").startswith("application/json") and body:
        json.loads(body)
