"""The page: all of the comparison in it, nothing of anybody else's, and drawn by a real browser without a complaint."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evaluation.comparison_records import records, train_targets
from summaries import RECIPE, arm, difference, judged, judged_page, page_of, summary

from equipoise.errors import RunError
from equipoise.evaluation import summarise

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&%{x}"
VOID = {"meta", "link", "br", "img", "input"}
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


class Elements(HTMLParser):
    """Tags and attributes, and whether every element is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def elements(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Elements()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.found


def test_the_page_tells_the_whole_story() -> None:
    page = judged_page()
    summed = judged()
    text = html.unescape(page)
    for sentence in [*summed["verdict"], summed["rule"]]:
        assert sentence in text
    for one in summed["arms"]:
        assert one["arm"] in text
    for part in ("verdict", "results", "differences", "together", "trade", "learning", "weights", "conflict"):
        assert f'<section id="{part}">' in page
    for part in ("transfer", "regions", "cost", "failed", "repeat"):
        assert f'<section id="{part}">' in page
        assert f'<a href="#{part}">' in page
    value = next(one for one in summed["arms"] if one["arm"] == "dao")["metrics"]["polarity"]["mse"]
    assert f"{value['mean']:.4f} ± {(value['high'] - value['low']) / 2:.4f}" in page
    assert "step 57: the loss of polarity is not finite" in page
    assert "equipoise compare news.yaml" in page
    assert html.escape(RECIPE) in page


def test_parts_without_data_are_left_out() -> None:
    page = page_of(summary(arm("equal")))
    assert '<section id="results">' in page
    for part in (
        "differences",
        "together",
        "trade",
        "learning",
        "weights",
        "conflict",
        "transfer",
        "regions",
        "failed",
    ):
        assert f'<section id="{part}">' not in page


def test_tables_and_pictures_have_names_in_words() -> None:
    page = judged_page()
    found = elements(page)
    plots = [attributes for tag, attributes in found if tag == "div" and attributes.get("class") == "plot"]
    assert len(plots) > 15
    assert all(len(one["aria-label"] or "") > 20 and one["role"] == "img" for one in plots)
    boxes = [attributes for _, attributes in found if attributes.get("class") == "scroll"]
    assert len(boxes) > 5
    assert all(one["aria-label"] and one["tabindex"] == "0" for one in boxes)
    assert len({attributes["id"] for _, attributes in found if "id" in attributes}) == page.count(
        ' id="'
    ) - _ids_in_scripts(page)


def _ids_in_scripts(page: str) -> int:
    return sum(body.count(' id="') for body in re.findall(r"<script[^>]*>(.*?)</script>", page, re.S))


def test_nothing_is_loaded_from_anywhere() -> None:
    page = judged_page()
    for tag, attributes in elements(page):
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "srcset", "action", "data"):
            assert name not in attributes, (tag, attributes)
        target = attributes.get("href")
        assert target is None or target.startswith("#") or target == "data:,"
        assert not any(name.startswith("on") for name in attributes)
    outside = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    assert "url(" not in outside
    assert "@import" not in outside
    assert "http" not in outside.replace("http-equiv", "")


def test_the_policy_lets_only_our_two_scripts_run() -> None:
    page = judged_page()
    policy = next(a["content"] for tag, a in elements(page) if tag == "meta" and "http-equiv" in a) or ""
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(digests) == 2


def test_sixteen_arms_and_four_tasks_stay_below_six_megabytes() -> None:
    """With long histories: what is logged more often must not make the page larger."""
    names = ["polarity", "label", "intensity", "topic"]
    runs, tasks = records(["equal", "dao", *(f"m{at}" for at in range(14))], 2, names, rows=30)
    found = summarise(runs, tasks=tasks, baseline="equal", train_targets=train_targets(names))
    for of_arm in found["curves"].values():
        for key in ("weights", "losses", "norms", "cosines"):
            for curve in of_arm[key].values():
                curve.update({name: [value for value in values for _ in range(5)] for name, values in curve.items()})
    assert len(found["curves"]["dao"]["weights"]["topic"]["mean"]) == 200
    assert len(page_of(found).encode()) < 6_000_000


def evil() -> str:
    task = f"score {EVIL}"
    metric = f"{task}.mse"
    metrics = {task: arm("x")["metrics"]["score"]}
    band = {"step": [1, 2], "mean": [1.0, 2.0], "low": [0.5, 1.5], "high": [1.5, 2.5], "examples": [32, 64]}
    parts = [{"name": EVIL, "n": 5, "mse": metrics[task]["mse"]}]
    arms = [
        arm("equal", metrics=metrics, tasks=[task]),
        arm(
            EVIL,
            metrics=metrics,
            tasks=[task],
            differences={metric: difference(1.0, 0.5, "better")},
            settings={EVIL: EVIL},
            regions={task: {"kind": "score", "regions": parts}},
            failed=[{"seed": 0, "fold": None, "reason": EVIL}],
            equal_time={metric: {"mean": 0.1, "low": None, "high": None}},
        ),
    ]
    found = summary(
        *arms,
        judged=[metric],
        tasks={task: {"kind": "regression", "metric": "mse", "better": "min", "classes": None}},
        rows={task: 5},
        verdict=[EVIL, EVIL],
        rule=EVIL,
        curves={
            EVIL: {
                "validation": {metric: band},
                "weights": {task: band},
                "cosines": {f"{task}|{EVIL}": band},
            }
        },
        transfer={
            "tasks": [task, EVIL],
            "source": "pairs",
            **{key: [[None, 1.0], [2.0, None]] for key in ("gain", "low", "high")},
            "verdict": [[None, "same"], ["same", None]],
        },
    )
    return page_of(found, title=EVIL, recipe_text=EVIL, command=EVIL, versions={EVIL: EVIL})


def test_whatever_comes_from_data_is_text() -> None:
    page = evil()
    found = elements(page)
    assert len([tag for tag, _ in found if tag == "script"]) == 3  # the pictures' data, plotly, ours
    assert not [tag for tag, _ in found if tag == "img"]
    assert not [one for _, one in found if any(name.startswith("on") for name in one)]
    data = page.split('id="pictures">', 1)[1].split("</script>", 1)[0]
    assert "alert(1)" in data
    assert "<" not in data
    assert "%{x}" not in data  # plotly would put a number there


def test_without_plotly_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(RunError, match=r"pip install plotly"):
        page_of(summary(arm("equal")))


# In a browser --------------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: the page can't be drawn")


def opened(page: str, folder: Path, *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and what the console said."""
    file = folder / "comparison.html"
    file.write_text(page, encoding="utf-8")
    command = [
        str(CHROMIUM),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
    ]
    command += ["--virtual-time-budget=10000", "--window-size=1280,30000", "--enable-logging=stderr", "--v=0", *flags]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=240, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def all_views(page: str) -> str:
    """The page with every view of every choice shown at once."""
    return page.replace('" hidden><div class="panels">', '"><div class="panels">').replace(
        "<select data-views=", "<select data-off="
    )


def acting(page: str, script: str) -> str:
    """The page without its policy, and with a script that uses it and leaves what it saw in the document."""
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    return free.replace("</body>", f"<script>setTimeout(() => {{ {script} }}, 4000)</script></body>")


def left_behind(dom: str) -> dict[str, Any]:
    found = re.search(r'<output id="seen">(.*?)</output>', dom)
    assert found, "the script did not come to its end"
    return dict(json.loads(html.unescape(found[1])))


LEAVE = """
  const output = document.createElement('output');
  output.id = 'seen';
  output.textContent = JSON.stringify(seen);
  document.body.append(output);
"""


@needs_browser
def test_a_browser_draws_every_picture_and_has_no_complaint(tmp_path: Path) -> None:
    page = judged_page()
    dom, said = opened(all_views(page), tmp_path)
    assert said == []
    drawn = [attributes for tag, attributes in elements(dom) if "plot" in (attributes.get("class") or "").split()]
    assert len(drawn) == page.count('class="plot" id=')
    assert all(one.get("data-drawn") == "yes" for one in drawn)
    assert dom.count('class="main-svg"') >= len(drawn)


@needs_browser
def test_a_browser_shows_evil_labels_as_text(tmp_path: Path) -> None:
    dom, said = opened(all_views(evil()), tmp_path)
    assert said == []
    assert not [attributes for tag, attributes in elements(dom) if tag == "img"]
    assert "onerror=alert(2)&gt;" in dom


@needs_browser
def test_buttons_and_choices_work_on_a_phone_and_the_page_does_not_scroll_sideways(tmp_path: Path) -> None:
    script = f"""
      const plot = document.querySelector('#learning .plot');
      const look = () => ({{
        ink: plot.layout.font.color, dao: plot.data.filter((t) => t.meta === 'a1').map((t) => t.visible),
        views: [...document.querySelectorAll('#weights .view')].map((v) => v.hidden),
        pressed: [...document.querySelectorAll('.chip[data-arm=a1]')].map((c) => c.getAttribute('aria-pressed')),
        window: innerWidth, page: document.documentElement.scrollWidth,
      }});
      const seen = {{ before: look() }};
      document.querySelector('#learning .chip[data-arm=a1]').click();
      document.getElementById('theme').click();
      const select = document.querySelector('#weights select');
      select.selectedIndex = 1;
      select.dispatchEvent(new Event('change'));
      document.querySelectorAll('details').forEach((one) => {{ one.open = true; }});
      setTimeout(() => {{ seen.after = look(); {LEAVE} }}, 2000);
    """
    light, narrow = "--blink-settings=preferredColorScheme=1", "--window-size=390,24000"
    dom, said = opened(acting(judged_page(), script), tmp_path, light, narrow)
    assert said == []
    before, after = left_behind(dom)["before"], left_behind(dom)["after"]
    assert before["ink"] == "rgba(29,35,41,1)"
    assert after["ink"] == "rgba(232,234,236,1)"
    assert before["dao"] == [True, True]  # band and line
    assert after["dao"] == [False, False]
    assert set(before["pressed"]) == {"true"}
    assert set(after["pressed"]) == {"false"}  # in every group of buttons
    assert before["views"] == [False, True, True]
    assert after["views"] == [True, False, True]
    assert before["window"] <= 500  # the narrowest window that chromium opens
    assert max(before["page"], after["page"]) <= before["window"]
