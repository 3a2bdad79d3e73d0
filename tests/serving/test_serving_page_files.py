"""The page in a browser: a table goes in and comes back, with its pictures."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_helpers
import pytest
from page_helpers import Visit, needs_browser, percent, table
from playwright.sync_api import Route, expect

from equipoise.inference import Model, predict_file

browser = page_helpers.browser
folders = page_helpers.folders
model = page_helpers.model
url = page_helpers.url
visit = page_helpers.visit


@needs_browser
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_a_file_goes_in_and_comes_back(visit: Callable[..., Visit], model: Model, tmp_path: Path, kind: str) -> None:
    import pandas as pd

    source = tmp_path / f"news.{kind}"
    frame = pd.read_csv(io.BytesIO(table()), keep_default_na=False)
    writers: dict[str, Callable[[], Any]] = {
        "csv": lambda: source.write_bytes(table()),
        "tsv": lambda: frame.to_csv(source, sep="\t", index=False),
        "jsonl": lambda: frame.to_json(source, orient="records", lines=True),
        "parquet": lambda: frame.to_parquet(source, index=False),
    }
    writers[kind]()
    predict_file(model, source, tmp_path / f"expected.{kind}", batch_rows=1024)
    seen = visit(viewport={"width": 1280, "height": 900})
    page, held = seen.page, [True]

    def slow(route: Route) -> None:
        told = {"state": "running", "rows_done": 15, "rows_total": 60, "bad": 0, "run": "reviews"}
        if route.request.method == "GET" and held[0]:
            route.fulfill(json=told)
        else:
            route.continue_()

    page.route("**/files/*", slow)
    page.get_by_label("Choose a file").set_input_files(source)
    expect(page.locator("#state")).to_have_text("15 rows of about 60 scored")
    expect(page.get_by_role("progressbar", name=source.name)).to_have_js_property("value", 0.25)
    held[0] = False
    result = page.get_by_role("group", name="The scored file")
    expect(result).to_be_visible()
    expect(result).to_be_focused()
    expect(page.locator("#work")).to_be_hidden()
    expect(result).to_contain_text(f"59 rows of news.{kind} scored by reviews. 1 row could not be")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == f"news-predicted.{kind}"
    same = (tmp_path / f"expected.{kind}").read_bytes()
    if kind != "parquet":  # the order of sums differs with the batches, and with it the last digits
        found = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
        expected = same.decode().splitlines()
        assert [line.split("0.")[0] for line in found] == [line.split("0.")[0] for line in expected]
    frames = [read(path, kind) for path in (Path(download.value.path()), tmp_path / f"expected.{kind}")]
    pd.testing.assert_frame_equal(frames[0], frames[1], rtol=1e-3, atol=1e-5)
    if kind == "parquet":
        expect(result).to_contain_text("There is no picture")
        return
    expect(result.get_by_role("listitem")).to_have_text(["Row 58: column 'text' is empty"])
    pictures = result.get_by_role("figure")
    assert pictures.get_by_role("heading").all_text_contents() == list(model.tasks)
    expected_row = frames[1].dropna(subset=["polarity"])
    counts = Counter(expected_row["predicted/label"])
    top, most = max(sorted(counts.items()), key=lambda item: item[1])
    picture = pictures.filter(has_text="most often").first
    expect(picture.get_by_role("img")).to_have_attribute(
        "aria-label", f"label: 59 rows, most often {top} ({percent(most / 59)})"
    )
    cells = picture.get_by_role("row", include_hidden=True).all_text_contents()
    assert {cell for cell in cells if not cell.endswith("0")} <= {f"{name}{count}" for name, count in counts.items()}
    polarity = pictures.first
    numbers = polarity.locator("td").all_text_contents()
    assert sum(map(int, numbers)) == 59
    assert polarity.locator("svg rect").count() == 20
    expect(polarity.get_by_role("img")).to_have_attribute(
        "aria-label", _containing(f"mean {expected_row['polarity'].mean():.2f}".replace("-", "−"))
    )
    moods = Counter(
        name for cell in expected_row["moods"] for name in str(cell).split("|") if name in {"awe", "fear", "joy"}
    )
    shown = dict(zip(pictures.nth(3).locator("th").all_text_contents(),
                     map(int, pictures.nth(3).locator("td").all_text_contents()), strict=True))  # fmt: skip
    assert {name: count for name, count in shown.items() if count} == dict(moods)


def _containing(text: str) -> Any:
    import re

    return re.compile(re.escape(text))


def read(path: Path, kind: str) -> Any:
    import pandas as pd

    if kind == "parquet":
        return pd.read_parquet(path)
    if kind == "jsonl":
        return pd.DataFrame([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
    return pd.read_csv(path, sep="\t" if kind == "tsv" else ",")


@needs_browser
def test_a_file_that_cannot_be_read_is_told_in_words(visit: Callable[..., Visit]) -> None:
    seen = visit()
    seen.expected = {422}
    page = seen.page
    trouble = page.locator("#file").get_by_role("alert")
    for name, content, message in (
        ("bad.csv", b"headline\nprofit\n", "bad.csv has no column 'text'. The model reads text; columns: headline"),
        ("photo.png", b"\x89PNG", "“photo.png” is of no kind that can be read. Choose a CSV"),
        ("empty.csv", b"", "“empty.csv” is empty"),
        ("binary.csv", b"\x00\xff\xfe" * 50, "binary.csv"),
        ("not.parquet", b"PAR1 or not", "not.parquet"),
    ):
        page.get_by_label("Choose a file").set_input_files({"name": name, "mimeType": "text/csv", "buffer": content})
        expect(trouble).to_contain_text(message)
        expect(page.get_by_role("group", name="The scored file")).to_be_hidden()
        expect(page.locator("#work")).to_be_hidden()
    page.get_by_label("Choose a file").set_input_files({"name": "good.csv", "mimeType": "text/csv", "buffer": table()})
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    expect(trouble).to_be_hidden()


@needs_browser
def test_a_file_is_dropped_and_given_up(visit: Callable[..., Visit]) -> None:
    seen = visit()
    page = seen.page
    deleted: list[str] = []

    def running(route: Route) -> None:
        if route.request.method == "DELETE":
            deleted.append(route.request.url)
            route.continue_()
        else:
            route.fulfill(json={"state": "running", "rows_done": 3, "bad": 0, "run": "reviews"})

    page.route("**/files/*", running)
    page.evaluate(
        """(text) => {
          const data = new DataTransfer();
          data.items.add(new File([text], 'dropped.csv', { type: 'text/csv' }));
          const event = (type) => new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
          document.body.dispatchEvent(event('drop'));  // beside the place: nothing happens
          document.getElementById('drop').dispatchEvent(event('drop'));
        }""",
        "text\nprofit\n",
    )
    expect(page.locator("#state")).to_have_text("3 rows scored")
    expect(page.locator("#file-name")).to_have_text("dropped.csv")
    with page.expect_request(lambda request: request.method == "DELETE"):
        page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#work")).to_be_hidden()
    expect(page.locator("#result")).to_be_hidden()
    assert len(deleted) == 1
