"""The service for half an hour under everything at once: is every accepted request answered, and is memory flat?

    python benchmarks/soak.py [--run runs/demo] [--minutes 30] [--processes 2] [--threads 6] [--seed 0]

One service on loopback, several client processes with several threads each. Every thread sends, in a random order of fixed
shares: predictions of 1 to 300 texts, explanations, tables (sent, watched, fetched, deleted), requests that are wrong in
some way, requests whose client hangs up, bodies that come slowly, headers that never end, and looks at /info, /metrics and
/health. The run is loaded anew once a minute. Now and then the model's next call raises SystemExit in its worker, which ends
a thread that does not look after itself.

What must hold, counted on both sides:
  lost        requests that were sent whole, whose client waited, and that got no answer: none
  unexpected  answers with a status that such a request cannot have: none (500 only while a fault was injected)
  counters    for every route and status, the service's own count is the clients'; only requests whose client hung up may
              be on the service's side alone
  left        when all is over nothing is in progress, nothing waits, no table is kept, no worker failed for good
  memory      flat: the slope (Theil-Sen) of the resident set over the second half, times that half's length, is at most 3 % of
              its median there. Each value is the median of a window of a thirtieth of the time: a reload holds two models for
              a second, and one fewer until the next explanation wants float32 weights, so extremes are a matter of chance

Writes results/trust_soak.json (megabytes, seconds, counts).
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
from _common import ROOT, write

#: Shares of what a thread sends, in a thousand.
SHARES = {
    "one text": 560, "some texts": 250, "many texts": 30, "explanation": 15, "wrong": 70, "table": 8, "hang up": 25,
    "slow body": 6, "endless head": 3, "look": 33,
}  # fmt: skip
JSON = {"Content-Type": "application/json"}
#: What is wrong -> body, headers, the status that tells so.
WRONG: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", JSON, 400),
    (b'{"texts": ["a", ""]}', JSON, 422),
    (b'{"text": "a", "run": "nobody"}', JSON, 404),
    (b'{"texts": [' + b"[" * 500 + b"]" * 500 + b"]}", JSON, 400),
    (b'{"text": "' + b"x" * 60_000 + b'"}', JSON, 422),
    (b"text=a", {}, 415),
    (b"\x1f\x8b packed", {**JSON, "Content-Encoding": "gzip"}, 415),
    (b'{"texts": [' + b"{}," * 30_000 + b"1]}", JSON, 422),
    (b'{"text": "a"}', {**JSON, "Origin": "http://other.example"}, 403),
]


def serve(run: str, port: int) -> None:
    """The service, with a fault in its model whenever SIGUSR1 comes."""
    from equipoise.inference import Model
    from equipoise.serving import serve as start

    wanted: list[int] = []
    good = Model.outputs

    def outputs(self: Any, *columns: Any) -> Any:
        if wanted and threading.current_thread().name.startswith("equipoise-"):
            wanted.pop()
            raise SystemExit("a fault that was asked for")
        return good(self, *columns)

    Model.outputs = outputs  # type: ignore[method-assign]
    signal.signal(signal.SIGUSR1, lambda *_: wanted.append(1))
    start(run, port=port)


class Client:
    """One thread: what it sent, and what came."""

    def __init__(self, port: int, texts: list[str], seed: int) -> None:
        self.port, self.texts, self.chance = port, texts, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.connection: http.client.HTTPConnection | None = None
        self.used = 0.0

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """A whole request and its answer; 0 = there was none."""
        route = (
            "/files/{id}/result" if path.endswith("/result") else "/files/{id}" if path.startswith("/files/") else path
        )
        route = route.partition("?")[0]
        if (
            self.connection is None or time.monotonic() - self.used > 2
        ):  # the service closes idle ones after five seconds
            self.close()
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            self.connection.request(method, path, body or None, headers or {})
            answer = self.connection.getresponse()
            content, status = answer.read(), answer.status
        except (OSError, http.client.HTTPException) as error:
            self.close()
            self.counts[f"lost {method} {route} {type(error).__name__}"] += 1
            return 0, b""
        self.used = time.monotonic()
        self.counts[f"answered {route} {status}"] += 1
        return status, content

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None

    def expect(self, kind: str, status: int, *allowed: int) -> None:
        if status not in allowed:
            self.counts[f"unexpected {kind} {status}"] += 1

    def one(self) -> None:
        """One act of the mix."""
        kind = self.chance.choices(list(SHARES), list(SHARES.values()))[0]
        self.counts[f"sent {kind}"] += 1
        getattr(self, kind.replace(" ", "_"))()

    def predict(self, count: int) -> None:
        status, content = self.ask("POST", "/predict", self.body(count), JSON)
        self.expect("predict", status, 200, 429, 500)
        if status == 200 and len(json.loads(content)["predictions"]) != count:
            self.counts["unexpected number of predictions"] += 1

    def body(self, count: int) -> bytes:
        return json.dumps({"texts": self.chance.choices(self.texts, k=count)}).encode()

    def one_text(self) -> None:
        self.predict(1)

    def some_texts(self) -> None:
        self.predict(self.chance.randint(2, 32))

    def many_texts(self) -> None:
        self.predict(self.chance.randint(100, 300))

    def explanation(self) -> None:
        body = json.dumps(
            {"text": self.chance.choice(self.texts)[:200], "task": self.chance.choice(self.tasks())}
        ).encode()
        status, _ = self.ask("POST", "/explain", body, JSON)
        self.expect("explain", status, 200, 429, 500)

    def tasks(self) -> list[str]:
        if not hasattr(self, "_tasks"):
            _, content = self.ask("GET", "/info")
            self._tasks = [task["name"] for task in json.loads(content)["runs"][0]["tasks"]]
        return self._tasks

    def wrong(self) -> None:
        body, headers, expected = self.chance.choice(WRONG)
        status, _ = self.ask("POST", "/predict", body, headers)
        self.expect("wrong", status, expected)

    def table(self) -> None:
        rows = self.chance.choices(self.texts, k=self.chance.randint(20, 300))
        kind = self.chance.choice(["csv", "jsonl", "parquet"])
        sink = io.BytesIO()
        if kind == "parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"text": rows}), sink)
        elif kind == "jsonl":
            sink.write("".join(json.dumps({"text": row}) + "\n" for row in rows).encode())
        else:
            text = io.StringIO()
            csv.writer(text).writerows([["text"], *([row] for row in rows)])
            sink.write(text.getvalue().encode())
        status, content = self.ask("POST", f"/files?name=in.{kind}", sink.getvalue())
        self.expect("table", status, 202, 429)
        if status != 202:
            return
        id_, told = json.loads(content)["id"], {"state": "waiting"}
        while told["state"] not in ("done", "failed"):
            time.sleep(0.3)
            status, content = self.ask("GET", f"/files/{id_}")
            if status != 200:
                self.expect("table's state", status, 200)
                return
            told = json.loads(content)
        if told["state"] == "done":
            status, content = self.ask("GET", f"/files/{id_}/result")
            self.expect("result", status, 200)
            if told["rows_done"] != len(rows):  # type: ignore[comparison-overlap]
                self.counts["unexpected number of rows"] += 1
        else:
            self.counts["tables failed"] += 1
        status, _ = self.ask("DELETE", f"/files/{id_}")
        self.expect("delete", status, 204)

    def raw(self, data: bytes) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        sock.sendall(data)
        return sock

    def head(self, length: int) -> bytes:
        lines = (
            "POST /predict HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        )
        return "\r\n".join((*lines, "Connection: close", "", "")).encode()

    def hang_up(self) -> None:
        body = self.body(self.chance.randint(1, 64))
        cut = self.chance.choice([len(body), len(body) // 2, 0])
        try:
            with self.raw(self.head(len(body)) + body[:cut]):
                time.sleep(self.chance.choice([0.0, 0.01, 0.1]))
        except OSError as error:
            self.counts[f"hang up {type(error).__name__}"] += 1

    def slow_body(self) -> None:
        body, answer = self.body(4), b""
        try:
            with self.raw(self.head(len(body))) as sock:
                for start in range(0, len(body), len(body) // 8 + 1):
                    sock.sendall(body[start : start + len(body) // 8 + 1])
                    time.sleep(0.3)
                while chunk := sock.recv(65_536):
                    answer += chunk
        except OSError as error:
            self.counts[f"lost slow {type(error).__name__}"] += 1
            return
        status = int(answer.split(b" ", 2)[1]) if answer else 0
        if not answer:
            self.counts["lost slow, no answer"] += 1
            return
        self.counts[f"answered /predict {status}"] += 1
        self.expect("slow", status, 200, 429, 500)

    def endless_head(self) -> None:
        answer = b""
        try:
            with self.raw(b"GET /info HTTP/1.1\r\nHost: localhost\r\nX: ") as sock:
                while chunk := sock.recv(65_536):
                    answer += chunk
        except OSError as error:
            self.counts[f"unexpected end of an endless head {type(error).__name__}"] += 1
            return
        self.counts["endless heads ended"] += 1
        if not answer.startswith(b"HTTP/1.1 408 "):
            self.counts["unexpected answer to an endless head"] += 1

    def look(self) -> None:
        status, _ = self.ask("GET", self.chance.choice(["/info", "/metrics", "/health"]))
        self.expect("look", status, 200)


def client(port: int, threads: int, seed: int, until: float) -> None:
    """A process of clients; it prints what they counted."""
    texts = sample()
    clients = [Client(port, texts, 1000 * seed + number) for number in range(threads)]

    def work(one: Client) -> None:
        while time.time() < until:
            one.one()
            time.sleep(one.chance.expovariate(1 / 0.02))
        one.close()

    running = [threading.Thread(target=work, args=(one,)) for one in clients]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    total: Counter[str] = Counter()
    for one in clients:
        total.update(one.counts)
    print(json.dumps(total))


def sample() -> list[str]:
    """Texts of the demo set."""
    from equipoise.demo import path

    with path().open(encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)][:2000]


def fetch(port: int, method: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metrics(port: int) -> dict[str, float]:
    lines = fetch(port, "GET", "/metrics")[1].splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if x and not x.startswith("#"))}


def counted(found: dict[str, float]) -> Counter[str]:
    """`ROUTE STATUS` -> how often, as the service counted."""
    total: Counter[str] = Counter()
    for name, value in found.items():
        if name.startswith("equipoise_requests_total{"):
            parts = name.split('"')
            total[f"{parts[1]} {parts[3]}"] = int(value)
    return total


def flatness(series: list[tuple[float, float]], seconds: float) -> dict[str, Any]:
    """The rule of the page's head, on (second, megabytes)."""
    width = seconds / 30
    windows: dict[int, list[float]] = {}
    for at, value in series:
        windows.setdefault(int(at / width), []).append(value)
    points = [((number + 0.5) * width, statistics.median(values)) for number, values in sorted(windows.items())]
    half = [(at, value) for at, value in points if at >= seconds / 2]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(half) for b in half[i + 1 :]]
    level, slope = statistics.median(value for _, value in half), statistics.median(slopes)
    growth = slope * seconds / 2
    return {
        "rule": "Theil-Sen slope over the second half, times its length, at most 3 % of its median",
        "median_mb": round(level, 1), "growth_in_second_half_mb": round(growth, 2),
        "share": round(growth / level, 4), "flat": growth <= 0.03 * level,
        "windows_mb": [round(value, 1) for _, value in points],
        "least_mb": [round(min(values), 1) for _, values in sorted(windows.items())],
    }  # fmt: skip


def soak(run: Path, minutes: float, processes: int, threads: int, seed: int) -> dict[str, Any]:
    seconds = 60 * minutes
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    log_file = Path(os.environ.get("TMPDIR", "/tmp")) / f"soak-{os.getpid()}.log"
    with log_file.open("wb") as log:
        service = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(run), "--port", str(port)],
            stderr=log,
            stdout=log,
            env=environment,
        )
        try:
            while True:
                try:
                    if fetch(port, "GET", "/health")[0] == 200:
                        break
                except OSError:
                    if service.poll() is not None:
                        raise SystemExit(f"the service ended: {log_file.read_text()[-2000:]}") from None
                time.sleep(0.2)
            found = drive(service, port, seconds, processes, threads, seed, environment)
            service.send_signal(signal.SIGTERM)
            found["exit_code"] = service.wait(60)
        finally:
            service.kill()
            service.wait()
    text = log_file.read_text(errors="replace")
    found["tracebacks_of_others_in_log"] = text.count("Traceback (most recent call last)")
    log_file.unlink()
    return found


def drive(
    service: subprocess.Popen[bytes], port: int, seconds: float, processes: int, threads: int, seed: int,
    environment: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    before, started = counted(metrics(port)), time.time()
    until = started + seconds
    clients = [
        subprocess.Popen(
            [sys.executable, __file__, "--client", str(port), "--threads", str(threads), "--seed", str(seed + number),
             "--until", str(until)],
            stdout=subprocess.PIPE, env=environment,
        )
        for number in range(processes)
    ]  # fmt: skip
    process, series, ours = psutil.Process(service.pid), [], Counter[str]()
    next_reload, next_fault = 30.0, min(seconds / 3, 300.0)
    faults = 0
    while (now := time.time() - started) < seconds:
        series.append((now, process.memory_info().rss / 1e6))
        if now > next_reload:
            next_reload += 60
            status, _ = fetch(port, "POST", f"/runs/{name_of(port, ours)}/reload")
            ours[f"answered /runs/{{name}}/reload {status}"] += 1
        if now > next_fault:
            next_fault += min(seconds / 3, 300.0)
            service.send_signal(signal.SIGUSR1)
            faults += 1
        time.sleep(min(2.0, seconds / 60))
        print(f"\r{now:6.0f} s, {series[-1][1]:.0f} MB", end="", file=sys.stderr)
    total = Counter(ours)
    for one in clients:
        out, _ = one.communicate(timeout=300)
        total.update(json.loads(out))
    end = time.time() + 60
    while (last := metrics(port))["equipoise_requests_in_progress"] > 1 and time.time() < end:
        time.sleep(0.2)
    return told(total, counted(last) - before, last, series, seconds, faults)


def name_of(port: int, ours: Counter[str]) -> str:
    status, content = fetch(port, "GET", "/info")
    ours[f"answered /info {status}"] += 1
    return str(json.loads(content)["default"])


def told(
    total: Counter[str], service: Counter[str], last: dict[str, float], series: list[tuple[float, float]],
    seconds: float, faults: int,
) -> dict[str, Any]:  # fmt: skip
    answered = Counter({name.removeprefix("answered "): n for name, n in total.items() if name.startswith("answered ")})
    hung_up = total["sent hang up"]
    # The last look at /metrics and those that wait for its end are the driver's own.
    watched = {name for name in {*answered, *service} if not name.startswith("/metrics")}
    more = {name: service[name] - answered[name] for name in watched if service[name] > answered[name]}
    fewer = {name: answered[name] - service[name] for name in watched if service[name] < answered[name]}
    only = sum(more.values())
    explained = not fewer and only <= hung_up and all(name.startswith("/predict ") for name in more)
    lost = {name: n for name, n in total.items() if name.startswith("lost ")}
    unexpected = {name: n for name, n in total.items() if name.startswith("unexpected ")}
    failures = sum(n for name, n in answered.items() if name.endswith(" 500"))
    waiting = sum(value for name, value in last.items() if name.startswith("equipoise_waiting_"))
    memory = flatness(series, seconds)
    requests = sum(answered.values())
    return {
        "figures": [
            {"name": "soak: requests answered / accepted", "held": requests, "tried": requests + sum(lost.values())},
            {"name": "soak: counts that agree on both sides (routes and statuses)", "held": len(watched) - len(fewer)
             if explained else 0, "tried": len(watched)},
            {"name": "soak: worker faults survived", "held": faults if last.get("equipoise_requests_in_progress") == 1
             else 0, "tried": faults},
            {"name": "soak: memory flat", "held": int(memory["flat"]), "tried": 1},
        ],
        "seconds": seconds, "requests_per_second": round(requests / seconds, 1),
        "lost": lost, "unexpected": unexpected,
        "answers_500": failures, "faults": faults,
        "hung_up": hung_up, "only_the_service_counted": more, "only_the_clients_counted": fewer,
        "in_progress_at_the_end": last["equipoise_requests_in_progress"] - 1, "waiting_at_the_end": waiting,
        "connections_closed": {
            name.split('"')[1]: int(value) for name, value in last.items()
            if name.startswith("equipoise_connections_closed_total{")
        },
        "workers_replaced": sum(v for k, v in last.items() if k.startswith("equipoise_workers_replaced_total")),
        "sent": {name.removeprefix("sent "): n for name, n in sorted(total.items()) if name.startswith("sent ")},
        "answered": dict(sorted(answered.items())), "counted_by_the_service": dict(sorted(service.items())),
        "tables_failed": total["tables failed"], "endless_heads_ended": total["endless heads ended"],
        "memory": memory,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo", help="a finished run")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--processes", type=int, default=2, help="of clients")
    parser.add_argument("--threads", type=int, default=6, help="of each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="write no results")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--client", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve, options.port)
        return
    if options.client is not None:
        client(options.client, options.threads, options.seed, options.until)
        return
    found = soak(options.run, options.minutes, options.processes, options.threads, options.seed)
    command = (
        f"python benchmarks/soak.py --minutes {options.minutes:g} --processes {options.processes} "
        f"--threads {options.threads} --seed {options.seed}"
    )
    print(json.dumps(found, indent=2))
    if not options.dry:
        write("trust_soak", {"command": command, **found})
    bad = found["lost"] or found["unexpected"] or any(one["held"] != one["tried"] for one in found["figures"])
    raise SystemExit(1 if bad or found["exit_code"] else 0)


if __name__ == "__main__":
    main()
