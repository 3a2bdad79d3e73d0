"""The page in a browser: everyone can use it, and nothing of the data is run."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import page_helpers
import pytest
from page_helpers import CONTRAST, TEXT, Visit, fitted, needs_browser, saved, table
from playwright.sync_api import Browser, expect
from serving_helpers import listening

browser = page_helpers.browser
folders = page_helpers.folders
url = page_helpers.url
visit = page_helpers.visit


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
