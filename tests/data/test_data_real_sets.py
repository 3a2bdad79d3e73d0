import os
from pathlib import Path

import pytest
import yaml

from equipoise.data import TableSpec, guess, prepare, recipe_text
from equipoise.tasks import kind

FOLDER = Path(os.environ.get("EQUIPOISE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
SETS = ["fiqa2018_task1", "emobank", "sst", "financial_phrasebank", "semeval2014_absa", "twitter_financial_news"]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no data sets in {FOLDER}; set EQUIPOISE_DATA")


@pytest.mark.parametrize("name", SETS)
def test_a_guessed_recipe_fits_the_set(name, tmp_path):
    path = FOLDER / name / "train.csv"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    recipe = yaml.safe_load(recipe_text(guess(path), path))
    tasks = {name: kind(body["type"]).Settings.model_validate(body) for name, body in recipe["tasks"].items()}
    prepared = prepare(
        [TableSpec(str(path), recipe["data"]["text"])], tasks, validation=0.1, test=None, seed=0, drop_leaks=True,
        max_rejected=0.01, folder=tmp_path,
    )  # fmt: skip
    rows = sum(len(split) for split in prepared.splits.values())
    assert rows == prepared.report["rows_read"] - prepared.report["rows_rejected"]
    assert abs(len(prepared.splits["validation"]) / rows - 0.1) < 0.01
