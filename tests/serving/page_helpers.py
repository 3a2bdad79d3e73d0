"""A browser on the service's page, small runs for it to show, and the fixtures that test modules import."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, sync_playwright
from serving_helpers import listening

import equipoise as eq
from equipoise.inference import Model
from equipoise.models import Sidecar, build, load_backbone, save_model
from equipoise.recipe import ModelSettings
from equipoise.tasks import Task, kind

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page can't be shown")

TEXT = "Strong 🎉 profit, but\nweak oil: the bank says 12% loss."
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def fitted(name: str, type_: str, cells: list[str], **settings: Any) -> Task:
    one = kind(type_)
    return one.fit(name, one.Settings(type=type_, **settings), pa.chunked_array([cells]))


def every_kind() -> dict[str, Task]:
    return {
        "polarity": fitted("polarity", "regression", ["-1", "0", "1"], range=(-1, 1)),
        "label": fitted("label", "classification", ["negative", "neutral", "positive"]),
        "urgency": fitted("urgency", "ordinal", ["low", "high", "medium"], labels=["low", "medium", "high"]),
        "moods": fitted("moods", "multilabel", ["joy|fear", "awe", "joy"], separator="|"),
        "growth": fitted("growth", "regression", ["-10", "30", "55"]),
    }


def saved(
    backbone: Path, folder: Path, tasks: Mapping[str, Task], *, text: tuple[str, ...] = ("text",), seed: int = 1
) -> Path:
    """A model folder of untrained heads, strong enough that words make a difference."""
    found = load_backbone(str(backbone))
    torch.manual_seed(seed)
    model = build(ModelSettings(backbone=str(backbone), max_length=32, pooling="mean"), found, tasks)
    model.heads.weight.data *= 40
    save_model(model, found.tokenizer, Sidecar(tasks, "mean", 32, text, str(backbone)), folder)
    return folder


def started(playwright: Playwright) -> Browser:
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


class Visit:
    """One person's visit: a page, and everything that its browser complained of or asked another address for.

    Attributes:
        page: opened, the service's answer to /info shown.
        expected: statuses of answers that the test provokes; browsers write them to the console.
    """

    def __init__(self, browser: Browser, url: str, *, wait: str = "textarea", init: str = "", **settings: Any) -> None:
        self.url, self.expected = url, set[int]()
        self.complaints: list[str] = []
        self.requested: list[str] = []
        self.context: BrowserContext = browser.new_context(accept_downloads=True, **settings)
        self.context.set_default_timeout(20_000)
        if init:
            self.context.add_init_script(init)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(f"uncaught: {error}"))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a script ran: {dialog.message}"))
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(wait)

    def _said(self, message: ConsoleMessage) -> None:
        if not any(f"status of {status}" in message.text for status in self.expected):
            self.complaints.append(message.text)

    def write(self, text: str, box: str = "Your text") -> None:
        """Writes a text and waits for its words."""
        self.page.get_by_role("textbox", name=box).fill(text)
        self.wait_for_words(text)

    def wait_for_words(self, text: str) -> None:
        """Waits until every panel shows this text's words and rests."""
        self.page.wait_for_function(
            """(text) => {
              const panels = [...document.querySelectorAll('.panel')];
              return !document.getElementById('panels').hidden && panels.every((panel) =>
                panel.getAttribute('aria-busy') === 'false'
                && panel.querySelector('.words').getAttribute('aria-busy') === 'false'
                && [...panel.querySelectorAll('.text')].some((line) => line.textContent === text));
            }""",
            arg=text,
        )

    def words(self, panel: int = 0) -> list[tuple[str, str]]:
        """The words shown, with their accessible names."""
        found: list[list[str]] = (
            self.page.locator(".panel")
            .nth(panel)
            .locator(".word")
            .evaluate_all("(all) => all.map((one) => [one.textContent, one.getAttribute('aria-label')])")
        )
        return [(text, name) for text, name in found]

    def left(self) -> None:
        """Closes the page; fails if it complained or asked elsewhere."""
        asked = [url for url in self.requested if not url.startswith((self.url, "data:image/svg", f"blob:{self.url}"))]
        self.context.close()
        assert not self.complaints, self.complaints
        assert not asked, asked


def table() -> bytes:
    """A table of 60 rows as CSV; the last three are odd, and one of them has no text."""
    rows = [["id", "text", "label"], *([i, f"profit {'loss' if i % 3 else 'rise'} {i}", "mine"] for i in range(57))]
    rows += [[57, "", "no text"], [58, 'says "buy",\nthen falls', "a, b"], [59, "=1+1", "x"]]
    sink = io.StringIO()
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode()


def percent(share: float) -> str:
    """A share as the page writes it."""
    return "<1%" if 0 < share < 0.005 else ">99%" if 0.995 < share < 1 else f"{int(100 * share + 0.5)}%"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        one = started(playwright)
        yield one
        one.close()


@pytest.fixture(scope="module")
def folders(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    where, backbone = tmp_path_factory.mktemp("page"), tiny_backbone("bert")
    return {
        "reviews": saved(backbone, where / "reviews", every_kind()),
        "other": saved(backbone, where / "other", every_kind(), seed=2),
        "pairs": saved(backbone, where / "pairs", every_kind(), text=("sentence", "about")),
    }


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> Model:
    return eq.load(folders["reviews"], device="cpu")


@pytest.fixture(scope="module")
def url(folders: dict[str, Path]) -> Iterator[str]:
    with listening(folders) as address:
        yield address


@pytest.fixture
def visit(browser: Browser, url: str) -> Iterator[Callable[..., Visit]]:
    made: list[Visit] = []

    def open_(address: str = url, **settings: Any) -> Visit:
        made.append(Visit(browser, address, **settings))
        return made[-1]

    yield open_
    for one in made:
        one.left()


#: Contrast of every visible text with what is behind it, as (ratio, text), the least first.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (css) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => top.slice(0, 3).map((one, at) => one * top[3] + below[at] * (1 - top[3]));
  const behind = (node) => {
    if (!node) return [255, 255, 255];
    const own = rgba(getComputedStyle(node).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, behind(node.parentElement));
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((one) => { const c = one / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), node = walker.currentNode.parentElement;
    if (!text || !node.checkVisibility({ visibilityProperty: true })) continue;
    const style = getComputedStyle(node), back = behind(node);
    const front = over(rgba(node.namespaceURI.endsWith('svg') ? style.fill : style.color), back);
    const [a, b] = [light(front), light(back)].sort((one, other) => other - one);
    found.push([(a + 0.05) / (b + 0.05), text.slice(0, 40)]);
  }
  return found.sort((one, other) => one[0] - other[0]);
}"""
