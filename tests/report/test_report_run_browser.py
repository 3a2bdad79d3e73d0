"""The report in a real browser, opened from the disk: drawn whole in light, dark and on a phone, without a complaint."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FOUR, write_run
from test_report_run_page import EVIL, evil_run

import equipoise as eq

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page can't be drawn")

OPEN_ALL = """() => {
  document.querySelectorAll('details').forEach((one) => { one.open = true; });
  document.querySelectorAll('.view').forEach((one) => { one.hidden = false; });
}"""
UNDRAWN = "() => [...document.querySelectorAll('.plot')].filter((one) => one.offsetParent && one.dataset.drawn !== 'yes').length"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with sync_api.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eq.write_report(write_run(tmp_path_factory.mktemp("browser") / "run"))


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return eq.write_report(evil_run(tmp_path_factory.mktemp("browser") / "run"))


class Opened:
    """A page with what it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def drawn(self) -> int:
        """How many pictures there are; waits until all are drawn."""
        # Not wait_for_function: it evaluates text as code, which the page's policy forbids.
        until = time.monotonic() + 120
        while self.page.evaluate(UNDRAWN):
            assert time.monotonic() < until, f"{self.page.evaluate(UNDRAWN)} pictures are not drawn"
            time.sleep(0.1)
        return int(self.page.evaluate("() => document.querySelectorAll('.plot .main-svg').length"))

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - innerWidth"))


@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_every_picture_is_drawn_and_nothing_is_asked_for(browser: Any, report: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, report, width, scheme)
    assert opened.overflow() <= 0
    opened.page.evaluate(OPEN_ALL)
    plots = opened.page.evaluate("() => document.querySelectorAll('.plot').length")
    assert plots > 30
    assert opened.drawn() >= plots
    assert opened.overflow() <= 0
    ink = opened.page.evaluate("() => document.querySelector('.plot').layout.font.color")
    assert ink == ("rgba(29,35,41,1)" if scheme == "light" else "rgba(232,234,236,1)")
    # Nothing sticks out of the box that it is drawn in.
    outside = opened.page.evaluate(
        "() => [...document.querySelectorAll('figure')].filter((one) => one.scrollWidth > one.clientWidth + 1).length"
    )
    assert outside == 0
    assert opened.said == []
    assert opened.asked == [report.as_uri()]
    opened.context.close()


def test_tasks_are_hidden_and_shown_in_every_picture_of_them(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, 1200, "light")
    opened.drawn()
    look = "() => document.querySelector('#balance .plot').data.filter((one) => one.meta === 't1').map((one) => one.visible)"
    assert opened.page.evaluate(look) == [True]
    opened.page.locator("#balance .chip", has_text="label").click()
    assert opened.page.evaluate(look) == [False]
    assert opened.page.locator("#balance .chip", has_text="label").get_attribute("aria-pressed") == "false"
    opened.context.close()


def test_the_recipe_is_copied_or_marked(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, 1200, "light")
    opened.page.locator("#repeat summary").click()
    button = opened.page.locator('[data-copy="recipe"]')
    button.click()
    until = time.monotonic() + 20
    while button.text_content() not in {"Copied", "Marked"}:
        assert time.monotonic() < until
        time.sleep(0.05)
    opened.context.close()


def test_attacks_are_shown_as_text(browser: Any, evil: Path) -> None:
    opened = Opened(browser, evil, 390, "dark")
    opened.page.evaluate(OPEN_ALL)
    assert opened.drawn() > 30
    assert opened.overflow() <= 0
    assert opened.said == []
    assert opened.asked == [evil.as_uri()]
    assert opened.page.locator("img").count() == 0
    assert EVIL in opened.page.locator("#errors p.text").first.text_content()
    assert EVIL in opened.page.locator("#repeat pre#recipe").text_content()
    assert EVIL in opened.page.locator("#verdict").text_content()
    opened.context.close()


def test_on_paper_it_is_light_and_whole(browser: Any, report: Path, tmp_path: Path) -> None:
    opened = Opened(browser, report, 1200, "dark")
    opened.drawn()
    opened.page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    opened.page.emulate_media(media="print")
    opened.page.evaluate("() => { dispatchEvent(new Event('beforeprint')); }")
    opened.drawn()
    assert opened.page.evaluate("() => document.querySelector('.plot').layout.font.color") == "rgba(29,35,41,1)"
    # The buttons of the tasks are the legend, and stay; those that only do something go.
    assert opened.page.locator("#balance .legend").is_visible()
    assert not opened.page.locator("#theme").is_visible()
    assert opened.said == []
    opened.context.close()


def test_twelve_tasks_fit_on_a_phone(browser: Any, tmp_path: Path) -> None:
    names = [f"class-{k:03d}-of-many-with-a-name-without-a-space" for k in range(60)]
    specs = {f"task-{at}-with-a-name-without-any-space-in-it": FOUR[list(FOUR)[at % 4]] for at in range(11)}
    specs["many"] = ("classification", {"labels": names}, names)
    opened = Opened(browser, eq.write_report(write_run(tmp_path / "run", specs)), 390, "light")
    opened.page.evaluate(OPEN_ALL)
    assert opened.drawn() > 100
    assert opened.overflow() <= 0
    assert opened.said == []
    opened.context.close()
