"""No attack runs in the service's page: as a text, a class, a task, a run, a column, a file, in an explanation or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attacks import PAGES
from page_helpers import CHROMIUM, Visit, fitted, needs_browser, saved, started
from serving_helpers import listening
from watched_pages import FOREIGN, HOOK, chunks, usable

pytestmark = needs_browser
OWN = r"^(#[\w-]*|data:,.*|data:image/svg\+xml.*|page\.(js|css)|page/[\w.]+|/?(docs|openapi\.json)?|blob:http://127\.0\.0\.1:\d+/[\w-]+)$"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = started(driver)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def url(tiny_backbone: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two runs: names of runs, tasks, classes and columns are attacks."""
    folder, names = tmp_path_factory.mktemp("evil-service"), chunks(usable(without="\r\x00"), 5)
    classes = list(dict.fromkeys(one.strip() for one in usable()))
    several = [one for one in classes if "|" not in one and not one.startswith("[")]
    tasks = {
        names[0]: fitted(names[0], "regression", ["-1", "0", "1"], range=(-1, 1)),
        names[1]: fitted(names[1], "classification", classes, labels=classes),
        names[2]: fitted(names[2], "multilabel", several, separator="|"),
    }
    one = saved(tiny_backbone("bert"), folder / "one", tasks)
    two = saved(tiny_backbone("bert"), folder / "two", tasks, text=(names[3], names[4]))
    # A run's name is printable, short and without a slash; everything else is told as none.
    runs = ("x\"'><img src=x onerror=x(1)>", "${x(1)}<svg onload=x(1)>", "<body onload=x(1)>{{x(1)}}")
    with listening(dict(zip(runs, (one, one, two), strict=True))) as address:
        yield address


def rows(columns: list[str], texts: list[str]) -> bytes:
    quoted = ['"' + one.replace('"', '""') + '"' for one in columns]
    cells = ['"' + one.replace('"', '""') + '"' for one in texts]
    return ("\n".join([",".join(quoted), *(",".join([cell] * len(columns)) for cell in cells)]) + "\n").encode()


@pytest.mark.parametrize(
    "policy", [pytest.param(True, id="policy", marks=pytest.mark.slow), pytest.param(False, id="escaping alone")]
)
def test_none_runs(browser: Any, url: str, policy: bool, record_property: Callable[[str, object], None]) -> None:
    from playwright.sync_api import expect

    seen = Visit(browser, url, init=HOOK, bypass_csp=not policy)
    page, attacks = seen.page, usable(without="\r\x00\u2028\u2029")

    def clean() -> None:
        assert page.evaluate("() => window.__xss") == []
        assert page.evaluate(FOREIGN, OWN) == []

    clean()
    # Texts, explained word by word; beside another run.
    page.get_by_role("combobox", name="Compare with").select_option(index=1)
    for text in chunks(attacks, 4):
        seen.write(text)
        clean()
    page.get_by_role("combobox", name="Task").first.select_option(index=1)
    page.locator(".words[aria-busy=false]").first.wait_for()
    clean()
    # A table whose columns and cells are attacks.
    name = "x\"'><img src=x onerror=x(1)>${x(1)}</script>"
    choose = page.get_by_label("Choose a file")
    table = rows(["text", *chunks(attacks, 3)], attacks)
    choose.set_input_files({"name": f"{name}.csv", "mimeType": "text/csv", "buffer": table})
    expect(page.get_by_role("group", name="The scored file")).to_contain_text(f"rows of {name}.csv scored by")
    clean()
    # And what goes wrong with one: no such column, no such kind, nothing in it, quotes that never end.
    seen.expected |= {413, 415, 422}
    for file, body in (
        (f"{name}.csv", rows(chunks(attacks, 3), attacks[:3])),
        (f"{name}.exe", b"x"),
        (f"{name}.csv", b""),
        (f"{name}.csv", b'"text\n' + name.encode()),
        (f"{name}.jsonl", b'{"text": "x", "a": "' + name.encode() + b"\n"),
    ):
        choose.set_input_files({"name": file, "mimeType": "text/csv", "buffer": body})
        page.locator("#file-trouble:not([hidden])").wait_for()
        page.locator("#work[hidden]").wait_for(state="attached")
        clean()
    # The other run reads pairs, whose columns are attacks.
    page.get_by_role("combobox", name="Model", exact=True).select_option(index=2)
    clean()
    # All but those that a browser itself takes signs out of; classes hold these as well.
    record_property("strings", len(PAGES))
    record_property("neutralised", len(PAGES))
    seen.left()  # an alert, a stopped script or a request elsewhere would have been a complaint


def test_the_policy_is_sent_with_every_answer(url: str) -> None:
    import httpx2

    for path, wanted in (
        ("/", "script-src 'self'"),
        ("/page/page.js", "script-src 'self'"),
        ("/info", "default-src 'none'"),
    ):
        answer = httpx2.get(f"{url}{path}")
        policy = answer.headers["content-security-policy"]
        assert answer.status_code == 200
        assert wanted in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/<script>x(1)</script>", "/files/<img src=x onerror=x(1)>", "/predict?<svg onload=x(1)>"):
        answer = httpx2.get(f"{url}{path}")
        assert answer.status_code >= 400
        assert "application/json" in answer.headers["content-type"]
        assert "default-src 'none'" in answer.headers["content-security-policy"]
