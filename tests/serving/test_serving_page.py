"""The page in a browser: what a person types, compares, and is told when the service says no."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Callable
from pathlib import Path

import page_helpers
import pytest
from page_helpers import TEXT, Visit, needs_browser, percent, table
from playwright.sync_api import Browser, Route, expect
from serving_helpers import listening

import equipoise as eq
from equipoise.inference import Model, explain
from equipoise.serving import _page

browser = page_helpers.browser
folders = page_helpers.folders
model = page_helpers.model
url = page_helpers.url
visit = page_helpers.visit


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
        {"type": "module", "src": "page/page.js"}
    ]
    assert not [tag for tag, _ in parser.found if tag in ("style", "iframe", "object", "embed", "base")]
    assert not [
        name for _, attributes in parser.found for name in attributes if name == "style" or name.startswith("on")
    ]
    links = [attributes[name] or "" for _, attributes in parser.found for name in ("src", "href") if name in attributes]
    assert all(link.startswith(("#", "page/", "openapi.json", "data:image/svg+xml,")) for link in links), links
    assert {"page/page.css", "page/page.js"} <= set(links)
    scripts = {path.name: path.read_text(encoding="utf-8") for path in _page.FOLDER.glob("*.js")}
    for name, script in scripts.items():
        for danger in (
            "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "import(",
        ):  # fmt: skip
            assert danger not in script, (name, danger)
        assert set(re.findall(r'^import .*"(.*)"', script, re.M)) <= {f"./{other}" for other in scripts}, name
    assert "url(" not in (_page.FOLDER / "page.css").read_text(encoding="utf-8")


def test_every_file_of_the_page_is_served_and_no_other() -> None:
    assert {path.name for path in _page.FOLDER.iterdir()} == set(_page.FILES)


# A text --------------------------------------------------------------------------------------------------------------


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
