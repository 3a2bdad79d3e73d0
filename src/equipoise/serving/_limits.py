"""What a request may cost. `GET /info` tells them."""

from __future__ import annotations

from dataclasses import asdict, dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Upper bounds of the service; a request beyond one is answered with what the bound is.

    Attributes:
        texts_per_request: texts (or pairs) of one request.
        characters_per_text: of one text; far beyond what a model reads, so that nothing sensible is refused.
        characters_per_explanation: of a text whose words are weighed, which costs many predictions.
        body_bytes: of a JSON body.
        bodies_bytes: of all JSON bodies that are being received; beyond it requests are refused with 429.
        file_bytes: of an uploaded table.
        file_rows: rows of an uploaded table.
        files: tables that are kept at once, waiting, running or done.
        files_bytes: bytes of all tables and results together.
        file_age_s: seconds that a finished table is kept.
        waiting_texts: texts that may wait for a model; beyond it requests are refused with 429.
        waiting_characters: characters that may wait for a model.
        waiting_requests: requests that may wait for a model.
        waiting_explanations: explanations that may wait for a model.
        batch_texts: texts that go through a model together.
        batch_characters: their characters, which stand for its tokens.
        gather_ms: milliseconds that a model waits for the requests of a busy moment to come together.
        connections: open connections; beyond it the one that has been silent longest is closed for a new one.
        head_s: seconds from a request's first byte to the end of its headers, and of a new connection to its first byte.
        idle_s: seconds that a connection may say nothing after an answer.
        stalled_s: seconds in which a client that is sent an answer must take 16 KiB a second of it.
        answer_s: seconds from a request to its answer; beyond it 504.
        stuck_s: seconds on one piece of work after which a model counts as stuck and is replaced.
        body_s: seconds that a body may take, and beyond them a second for every 64 KiB that came; beyond it 408.
        grace_s: seconds that a stop waits for what was accepted.
    """

    texts_per_request: int = 1_000
    characters_per_text: int = 50_000
    characters_per_explanation: int = 5_000
    body_bytes: int = 8 << 20
    bodies_bytes: int = 256 << 20
    file_bytes: int = 256 << 20
    file_rows: int = 2_000_000
    files: int = 32
    files_bytes: int = 2 << 30
    file_age_s: float = 3_600.0
    waiting_texts: int = 8_192
    waiting_characters: int = 32 << 20
    waiting_requests: int = 512
    waiting_explanations: int = 8
    batch_texts: int = 256
    batch_characters: int = 65_536
    gather_ms: float = 3.0
    connections: int = 900
    head_s: float = 10.0
    idle_s: float = 5.0
    stalled_s: float = 20.0
    answer_s: float = 60.0
    stuck_s: float = 300.0
    body_s: float = 20.0
    grace_s: float = 30.0

    def told(self) -> dict[str, int | float]:
        """What a client needs to know."""
        hidden = {
            "bodies_bytes", "files_bytes", "waiting_characters", "batch_texts", "batch_characters", "gather_ms", "connections",
            "stuck_s", "grace_s",
        }  # fmt: skip
        return {name: value for name, value in asdict(self).items() if name not in hidden}
