"""The page in a browser: what a person types, sees, drops, compares, and is told when it does not work."""

from __future__ import annotations

import csv
import html.parser
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_helpers import CHROMIUM, CONTRAST, Visit, every_kind, fitted, saved, started
from playwright.sync_api import Browser, Route, expect, sync_playwright
from serving_helpers import listening

import equipoise as eq
from equipoise.inference import Model, explain, predict_file
from equipoise.serving import _page

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page can't be shown")

TEXT = "Strong 🎉 profit, but\nweak oil: the bank says 12% loss."


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


# What needs no browser -----------------------------------------------------------------------------------------------


class Tags(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_holds_no_script_no_style_and_no_other_address() -> None:
    parser = Tags()
    parser.feed((_page.FOLDER / "index.html").read_text(encoding="utf-8"))
    assert [attributes for tag, attributes in parser.found if tag == "script"] == [
        {"src": "page/page.js", "defer": None}
    ]
    assert not [tag for tag, _ in parser.found if tag in ("style", "iframe", "object", "embed", "base")]
    assert not [
        name for _, attributes in parser.found for name in attributes if name == "style" or name.startswith("on")
    ]
    links = [attributes[name] or "" for _, attributes in parser.found for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "page/", "openapi.json", "data:image/svg+xml,")) for link in links), links
    assert {"page/page.css", "page/page.js"} <= set(links)
    script = (_page.FOLDER / "page.js").read_text(encoding="utf-8")
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "import("):
        assert danger not in script, danger
    assert "url(" not in (_page.FOLDER / "page.css").read_text(encoding="utf-8")


# A text --------------------------------------------------------------------------------------------------------------


def percent(share: float) -> str:
    return "<1%" if 0 < share < 0.005 else ">99%" if 0.995 < share < 1 else f"{int(100 * share + 0.5)}%"


@needs_browser
def test_what_is_typed_is_scored_at_once(visit: Callable[..., Visit], model: Model) -> None:
    seen = visit()
    page = seen.page
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page).to_have_title("reviews · Equipoise")
    page.get_by_role("textbox", name="Your text").press_sequentially("strong profit")
    seen.wait_for_words("strong profit")
    row = model.records(model.outputs(["strong profit"]))[0]
    meter = page.get_by_role("meter", name="polarity")
    assert float(meter.get_attribute("aria-valuenow") or "") == pytest.approx(row["polarity"], abs=1e-5)
    assert (meter.get_attribute("aria-valuemin"), meter.get_attribute("aria-valuemax")) == ("-1", "1")
    shown = f"{row['polarity']:.2f}".replace("-", "−")
    expect(page.locator(".task.regression .score").first).to_have_text(shown)
    for task in ("label", "urgency", "moods"):
        card = page.get_by_role("article").filter(has=page.get_by_role("heading", name=task, exact=True))
        for label, share in row[task]["probabilities"].items():
            expect(card.get_by_role("listitem").filter(has_text=label)).to_contain_text(percent(share))
        said = ", ".join(row[task]["value"].split("|")) or "none of them"
        expect(card.locator(".class-value")).to_have_text(said)
        chosen = card.locator("li.chosen .name").all_text_contents()
        assert chosen == [one for one in row[task]["value"].split("|") if one]
    growth = page.get_by_role("article").filter(has=page.get_by_role("heading", name="growth"))
    expect(growth.locator(".score")).not_to_be_empty()
    expect(growth.get_by_role("meter")).to_have_count(0)  # it has no range, so there is no scale
    expect(page.locator("#said")).to_contain_text(f"polarity {shown}, label {row['label']['value']}")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#panels")).to_be_hidden()
    expect(page.get_by_role("textbox", name="Your text")).to_be_focused()


@needs_browser
def test_the_last_text_wins(visit: Callable[..., Visit], model: Model) -> None:
    seen = visit()
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "slow" in (route.request.post_data or ""):
            held.append(route)  # never answered: the page gives it up
        else:
            route.continue_()

    seen.page.route("**/predict", hold)
    box = seen.page.get_by_role("textbox", name="Your text")
    with seen.page.expect_request("**/predict"):
        box.fill("slow loss")
    with seen.page.expect_event("requestfailed"):  # cancelled, not left to run
        box.fill("great profit")
    seen.wait_for_words("great profit")
    assert len(held) == 1
    expected = model.predict(["great profit"])["polarity"][0]
    found = seen.page.get_by_role("meter", name="polarity").get_attribute("aria-valuenow")
    assert float(found or "") == pytest.approx(expected, abs=1e-5)


@needs_browser
def test_examples_are_clicked_and_words_told_apart(visit: Callable[..., Visit], model: Model) -> None:
    seen = visit()
    page = seen.page
    buttons = page.get_by_role("group", name="Examples").get_by_role("button")
    assert buttons.count() >= 3
    buttons.last.click()
    text = page.get_by_role("textbox", name="Your text").input_value()
    seen.wait_for_words(text)
    seen.write(TEXT)
    found = explain(model, TEXT, "polarity")
    assert [word for word, _ in seen.words()] == [word["text"] for word in found["words"]]
    assert page.locator(".text").text_content() == TEXT
    strongest = max(abs(word["contribution"]) for word in found["words"])
    for at, word in enumerate(found["words"]):
        shown = page.locator(".word").nth(at)
        share = word["contribution"] / strongest
        if abs(share) > 0.06:  # what hardly matters has no sign
            assert ("up" if share > 0 else "down") in (shown.get_attribute("class") or "").split()
            told = (shown.get_attribute("aria-label") or "").removeprefix(f"{word['text']}, ")
            assert float(told.replace("−", "-")) == pytest.approx(word["contribution"], abs=0.06 * strongest)
    # The sign is not in the colour alone.
    lines = {
        sign: page.locator(f".word.{sign}").first.evaluate("(one) => getComputedStyle(one).borderBottomStyle")
        for sign in ("up", "down")
    }
    assert lines == {"up": "none", "down": "dotted"}
    expect(page.locator(".key")).to_contain_text("raises polarity")


@needs_browser
def test_a_task_and_a_class_are_chosen(visit: Callable[..., Visit], model: Model) -> None:
    seen = visit()
    seen.write("strong profit weak oil")
    page = seen.page
    page.get_by_role("combobox", name="Task").select_option("label")
    predicted = model.predict(["strong profit weak oil"])["label"][0]
    expect(page.locator(".key")).to_contain_text(f"speaks for {predicted}")
    for label in ("negative", "positive"):
        page.get_by_role("combobox", name="Class").select_option(label=label)
        expect(page.locator(".key")).to_contain_text(f"speaks for {label}")
        found = explain(model, "strong profit weak oil", "label", target=label)
        most = max(found["words"], key=lambda word: abs(word["contribution"]))
        expect(page.locator(".strongest li").first).to_contain_text(most["text"])
    page.get_by_role("combobox", name="Task").select_option("growth")
    expect(page.locator(".key")).to_contain_text("raises growth")
    expect(page.get_by_role("combobox", name="Class")).to_be_hidden()


@needs_browser
def test_a_text_that_is_too_long_for_the_model_says_so(visit: Callable[..., Visit]) -> None:
    seen = visit()
    seen.write("profit " * 40 + "end")
    expect(seen.page.locator(".detail")).to_contain_text("struck through were not read")
    assert seen.words()[-1] == ("end", "end, not read")
    box = seen.page.get_by_role("textbox", name="Your text")
    box.fill("x" * 60_000)
    expect(seen.page.locator("#count")).to_contain_text("60,000 of 50,000 characters: too long")
    box.fill("profit " * 900)  # may be predicted, but its words are too many
    expect(seen.page.locator(".detail")).to_contain_text("up to 5,000 characters")


@needs_browser
def test_pairs_have_two_boxes(visit: Callable[..., Visit], folders: dict[str, Path]) -> None:
    seen = visit()
    page = seen.page
    page.get_by_role("combobox", name="Model").select_option("pairs")
    page.get_by_role("textbox", name="sentence").fill("strong profit")
    page.get_by_role("textbox", name="about").fill("oil bank")
    seen.wait_for_words("oil bank")
    assert [word for word, _ in seen.words()] == ["strong", "profit", "oil", "bank"]
    expected = eq.load(folders["pairs"]).predict([("strong profit", "oil bank")])["polarity"][0]
    found = page.get_by_role("meter", name="polarity").get_attribute("aria-valuenow")
    assert float(found or "") == pytest.approx(expected, abs=1e-5)


@needs_browser
def test_two_runs_stand_side_by_side(visit: Callable[..., Visit], folders: dict[str, Path], model: Model) -> None:
    seen = visit(viewport={"width": 1440, "height": 900})
    page = seen.page
    options = page.get_by_role("combobox", name="Compare with").get_by_role("option").all_text_contents()
    assert options == ["nothing", "other"]  # the one that reads pairs cannot read this text
    page.get_by_role("combobox", name="Compare with").select_option(label="other")
    seen.write("strong profit")
    assert page.locator(".panel .run-name").all_text_contents() == ["reviews", "other"]
    both = [model.predict(["strong profit"]).iloc[0], eq.load(folders["other"]).predict(["strong profit"]).iloc[0]]
    meters = page.get_by_role("meter", name="polarity")
    for at, row in enumerate(both):
        assert float(meters.nth(at).get_attribute("aria-valuenow") or "") == pytest.approx(row["polarity"], abs=1e-5)
    left, right = (page.locator(".panel").nth(at).bounding_box() for at in (0, 1))
    assert left
    assert right
    assert left["x"] + left["width"] <= right["x"]
    assert abs(left["y"] - right["y"]) < 2
    gap = both[1]["polarity"] - both[0]["polarity"]
    expect(page.locator("#between")).to_contain_text(f"{abs(gap):.2f} {'higher' if gap > 0 else 'lower'} in other")
    page.get_by_role("combobox", name="Compare with").select_option(label="nothing")
    expect(page.locator(".panel")).to_have_count(1)
    expect(page.locator("#between")).to_be_hidden()


# A file --------------------------------------------------------------------------------------------------------------


def table() -> bytes:
    rows = [["id", "text", "label"], *([i, f"profit {'loss' if i % 3 else 'rise'} {i}", "mine"] for i in range(57))]
    rows += [[57, "", "no text"], [58, 'says "buy",\nthen falls', "a, b"], [59, "=1+1", "x"]]
    sink = io.StringIO()
    csv.writer(sink).writerows(rows)
    return sink.getvalue().encode()


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


# The service says no -------------------------------------------------------------------------------------------------


@needs_browser
def test_a_token_is_asked_for_and_kept_for_the_tab(
    visit: Callable[..., Visit], folders: dict[str, Path], browser: Browser
) -> None:
    with listening(folders["reviews"], token="open-sesame") as address:
        seen = Visit(browser, address, wait="dialog[open]")
        seen.expected = {401}
        seen.complaints = [one for one in seen.complaints if "status of 401" not in one]
        page = seen.page
        gate = page.get_by_role("dialog", name="This service asks for a token")
        expect(gate.get_by_label("Token")).to_be_focused()
        page.keyboard.press("Escape")  # there is nothing behind it
        expect(gate).to_be_visible()
        gate.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(gate).to_contain_text("That token was refused")
        gate.get_by_label("Token").fill("open-sesame")
        gate.get_by_role("button", name="Go on").click()
        expect(gate).to_be_hidden()
        seen.write("strong profit")
        page.get_by_label("Choose a file").set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": table()})
        expect(page.get_by_role("link", name="Download")).to_be_visible()
        assert "open-sesame" not in page.content()
        page.reload()
        seen.write("weak loss")
        expect(gate).to_be_hidden()
        assert page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
        seen.left()


@needs_browser
def test_a_busy_service_is_asked_again_and_a_silent_one_is_told(visit: Callable[..., Visit]) -> None:
    seen = visit()
    seen.expected = {429}
    answers: list[str] = []

    def busy(route: Route) -> None:
        answers.append(route.request.url)
        if len(answers) == 1:
            error = {"error": {"what": "too many requests wait", "where": None, "how": "Try again in 1 s."}}
            route.fulfill(status=429, headers={"retry-after": "1"}, json=error)
        else:
            route.continue_()

    seen.page.route("**/predict", busy)
    seen.write("strong profit")
    assert len(answers) == 2
    seen.page.unroute("**/predict")
    seen.page.route("**/predict", lambda route: route.abort())
    seen.page.get_by_role("textbox", name="Your text").fill("weak loss")
    expect(seen.page.locator(".panel").get_by_role("alert")).to_have_text(
        "The service does not answer. Is it still running?"
    )
    expect(seen.page.locator(".panel .tasks")).to_be_hidden()  # what it said of another text is gone
    seen.page.unroute("**/predict")
    seen.write("weak loss again")
    expect(seen.page.locator(".panel").get_by_role("alert")).to_be_hidden()
    seen.complaints = [one for one in seen.complaints if "ERR_FAILED" not in one]  # the test's own


@needs_browser
def test_a_run_that_was_loaded_anew_is_asked_about(visit: Callable[..., Visit]) -> None:
    seen = visit()
    asked = sum(one.endswith("/info") for one in seen.requested)

    def renewed(route: Route) -> None:
        answer = route.fetch()
        route.fulfill(json={**answer.json(), "version": "another"})

    seen.page.route("**/predict", renewed)
    seen.write("strong profit")
    assert sum(one.endswith("/info") for one in seen.requested) == asked + 1  # once, and not for ever


# Everyone can use it -------------------------------------------------------------------------------------------------


@needs_browser
def test_the_keyboard_is_enough(visit: Callable[..., Visit], tmp_path: Path) -> None:
    seen = visit(viewport={"width": 1280, "height": 900})
    page = seen.page

    def focused() -> str:
        return str(page.evaluate("document.activeElement.id || document.activeElement.className"))

    def go_to(name: str) -> None:
        for _ in range(40):
            if name in focused().split():
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    assert focused() == "skip"
    go_to("theme")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("strong profit , weak oil")
    seen.wait_for_words("strong profit , weak oil")
    go_to("word")  # one stop for all words
    expect(page.locator(".detail")).to_contain_text("“strong”")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".detail")).to_contain_text("“profit”")
    expect(page.locator(".word").nth(1)).to_be_focused()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("End")
    expect(page.locator(".detail")).to_contain_text("“oil”")
    page.keyboard.press("Tab")
    assert "word" not in focused().split()
    go_to("table")
    outline = "getComputedStyle(document.querySelector('.pick')).outlineStyle"
    assert page.evaluate(outline) == "solid"  # the field is out of sight, so its label shows the focus
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files({"name": "a.csv", "mimeType": "text/csv", "buffer": table()})
    expect(page.get_by_role("group", name="The scored file")).to_be_focused()
    page.keyboard.press("Tab")
    assert focused() == "download"
    with page.expect_download():
        page.keyboard.press("Enter")


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_it_can_be_read(visit: Callable[..., Visit], scheme: str, width: int) -> None:
    seen = visit(viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    page = seen.page
    page.get_by_role("combobox", name="Compare with").select_option(label="other")
    seen.write(TEXT)
    page.get_by_label("Choose a file").set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": table()})
    expect(page.get_by_role("link", name="Download")).to_be_visible()
    page.get_by_text("Ask from a program").click()
    for toggled in (False, True):
        if toggled:
            page.get_by_role("button", name="Use light colours" if scheme == "dark" else "Use dark colours").click()
        found = page.evaluate(CONTRAST)
        assert len(found) > 100
        assert [one for one in found if one[0] < 4.5] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.locator("*").evaluate_all(
            "(all) => all.filter((n) => getComputedStyle(n).transitionDuration !== '0s').length"
        )
        == 0
    )
    # Every control has a name, and headings go down one step at a time.
    nameless = page.locator("button, select, textarea, input, a, progress, [role=meter], svg[role=img]").evaluate_all(
        """(all) => all.filter((one) => one.checkVisibility() && !(one.getAttribute('aria-label') || one.textContent.trim()
          || one.labels?.length || one.getAttribute('aria-labelledby'))).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    levels = page.locator("h1, h2, h3, h4").evaluate_all(
        "(all) => all.filter((one) => one.checkVisibility()).map((one) => Number(one.tagName[1]))"
    )
    assert levels[0] == 1
    assert all(after - before <= 2 for before, after in itertools.pairwise(levels))


@needs_browser
def test_what_comes_from_data_is_text(
    visit: Callable[..., Visit], browser: Browser, tiny_backbone: Callable[[str], Path], tmp_path: Path
) -> None:
    evil = "<img src=x onerror=alert(1)>"
    tasks = {
        evil: fitted(evil, "regression", ["-1", "0", "1"], range=(-1, 1)),
        "</template><script>alert(2)": fitted(
            "</template><script>alert(2)", "classification", [evil, "'\"><svg onload=alert(3)>", "&lt;b&gt;"]
        ),
    }
    folder = saved(tiny_backbone("bert"), tmp_path / "model", tasks)
    with listening({evil: folder, "${alert(4)}": folder}) as address:
        seen = Visit(browser, address)
        page = seen.page
        page.get_by_role("combobox", name="Compare with").select_option(label="${alert(4)}")
        text = f"profit {evil} </textarea><script>alert(5)</script> javascript:alert(6)"
        seen.write(text)
        page.get_by_role("combobox", name="Task").first.select_option("</template><script>alert(2)")
        expect(page.locator(".key").first).to_contain_text("speaks for")
        assert page.locator(".text").first.text_content() == text
        rows = f'text,"{evil}"\n"{evil}",1\n,2\n'.encode()
        page.get_by_label("Choose a file").set_input_files(
            {"name": f"{evil}.csv", "mimeType": "text/csv", "buffer": rows}
        )
        expect(page.get_by_role("group", name="The scored file")).to_contain_text(
            f"1 row of {evil}.csv scored by {evil}"
        )
        page.get_by_label("Choose a file").set_input_files(
            {"name": f"{evil}.exe", "mimeType": "text/csv", "buffer": rows}
        )
        expect(page.locator("#file-trouble")).to_contain_text(f"“{evil}.exe” is of no kind")
        assert page.locator("img, body script, [onload], [onerror]").count() == 0
        expect(page.locator("#runs")).to_contain_text("'\"><svg onload=alert(3)>")
        seen.left()  # an alert would have been a complaint
