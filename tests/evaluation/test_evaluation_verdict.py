import copy

import pytest
import yaml
from comparison_records import records

from equipoise.evaluation import summarise
from equipoise.evaluation._verdict import RULE, verdict


def difference(verdict="same", gain=1.0, p=0.5, **more):
    found = {"mean": -0.01 * gain, "low": -0.02, "high": 0.02, "p": p, "p_holm": p, "verdict": verdict, "n": 3}
    found["relative"] = {"mean": gain, "low": gain - 2, "high": gain + 2}
    return (
        found
        | {"seeds_sd": 0.01, "rows_se": 0.01, "seeds_needed": 12, "rows_needed": None, "rows": 5000, "tests": 4}
        | more
    )


@pytest.fixture
def summary():
    """Two methods and a baseline that differ by nothing, one test row short of nothing to say."""
    runs, tasks = records(singles=False)
    found = summarise(runs, tasks=tasks, baseline="equal")
    for arm in found["arms"]:
        arm["differences"] = {} if arm["arm"] == "equal" else {name: difference() for name in found["judged"]}
    return found | {"rows": {"polarity": 5000, "label": 5000}, "best": None}


def arm_of(summary, name):
    return next(arm for arm in summary["arms"] if arm["arm"] == name)


def test_nothing_beyond_noise(summary):
    first, *others = verdict(summary)
    assert first == "No method differs from equal beyond noise."
    assert len(others) == 1
    assert (
        "would be shown four times in five by 12 seeds, among 4 differences that are tested together; there are 3."
        in others[0]
    )


def test_better_worse_and_mixed(summary):
    arm_of(summary, "dao")["differences"]["polarity.mse"] = difference("better", 7.12, 0.004)
    arm_of(summary, "uncertainty")["differences"]["label.macro_f1"] = difference("worse", -3.0, 1e-9)
    first, second = verdict(summary)[:2]
    assert first == "dao beats equal: polarity.mse by 7.1 % (5.1 to 9.1, p = 0.004)."
    assert second == "uncertainty is worse than equal: label.macro_f1 by 3.0 % (1.0 to 5.0, p < 0.001)."
    arm_of(summary, "uncertainty")["differences"]["polarity.mse"] = difference("better", 5.0, 0.01)
    assert verdict(summary)[1].startswith("uncertainty trades against equal: better on polarity.mse")
    arm_of(summary, "uncertainty")["differences"] = {name: difference() for name in summary["judged"]}
    assert verdict(summary)[1] == "1 other arm does not differ from equal beyond noise."


def test_tuned_weights_have_a_sentence_of_their_own(summary):
    tuned = copy.deepcopy(arm_of(summary, "dao")) | {"arm": "tuned-fixed", "group": "tuned", "versus_tuned": {}}
    summary["arms"].append(tuned)
    for name in ("equal", "dao", "uncertainty"):
        arm_of(summary, name)["versus_tuned"] = {one: difference() for one in summary["judged"]}
    assert verdict(summary)[1] == "No method differs from the tuned fixed weights (tuned-fixed) beyond noise."
    arm_of(summary, "dao")["versus_tuned"]["polarity.mse"] = difference("better", 2.0, 0.02)
    assert verdict(summary)[1].startswith("dao beats the tuned fixed weights (tuned-fixed): polarity.mse by 2.0 %")


def test_what_would_tell_from_tuned_weights_is_said_too(summary):
    tuned = copy.deepcopy(arm_of(summary, "dao")) | {"arm": "tuned-fixed", "group": "tuned", "versus_tuned": {}}
    arm_of(summary, "dao")["versus_tuned"] = {one: difference(seeds_needed=33) for one in summary["judged"]}
    summary["arms"].append(tuned | {"mean_rank": 3.0})
    said = [sentence for sentence in verdict(summary) if "four times in five" in sentence]
    assert len(said) == 2
    assert "that of dao and tuned-fixed on polarity.mse" in said[1]
    assert "by 33 seeds" in said[1]


def test_the_best_and_whether_it_is_certain(summary):
    found = {"polarity.mse": difference("better", 4.0, 0.01)}
    summary["best"] = {"arm": "dao", "runner_up": "equal", "certain": True, "differences": found}
    assert "The best mean rank has dao, and it beats the second, equal: polarity.mse by 4.0 %" in verdict(summary)[1]
    summary["best"] |= {"certain": False}
    assert "that it is the best is not certain: equal, the second, is not beaten" in verdict(summary)[1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"seeds_needed": None, "rows_needed": 21_000}, "About 21,000 rows would be needed"),
        ({"seeds_needed": None}, "is too small to be shown by 1,000 seeds"),
        ({"seeds_needed": 2, "tests": 1}, "by 2 seeds; there are 3"),
    ],
)
def test_what_would_be_needed(summary, more, said):
    for name in ("dao", "uncertainty"):
        arm_of(summary, name)["differences"] = {one: difference(**more) for one in summary["judged"]}
    assert said in verdict(summary)[1]


def test_tasks_that_pay_are_to_be_trained_apart(summary):
    summary["losing"] = {
        "polarity.mse": {"verdict": "apart", "least_loss": 7.24},
        "label.macro_f1": {"verdict": "same"},
    }
    found = [sentence for sentence in verdict(summary) if "Every shared model" in sentence]
    assert found == [
        "Every shared model is worse on polarity.mse than the model of polarity alone, by 7.2 % at least: train polarity "
        "apart from the others."
    ]
    summary["losing"]["polarity.mse"] |= {"verdict": "apart", "least_loss": None}
    assert any("than the model of polarity alone: train" in sentence for sentence in verdict(summary))
    # Of two tasks the other one is to blame; of three nobody knows without models of two.
    hint = "Beside which tasks shows with pairs among the methods: a model of every two tasks."
    assert hint not in verdict(summary | {"tasks": {"polarity": {}, "label": {}}})
    summary["tasks"] = {"polarity": {}, "label": {}, "topic": {}}
    assert hint in verdict(summary)
    pairs = {"tasks": ["polarity", "label"], "gain": [[None] * 2] * 2, "verdict": [[None] * 2] * 2, "source": "pairs"}
    assert hint not in verdict(summary | {"transfer": pairs})
    summary["losing"]["polarity.mse"]["verdict"] = "same"
    assert hint not in verdict(summary)
    assert not any("Every shared model" in sentence for sentence in verdict(summary))


def test_pairs_that_harm_each_other(summary):
    gain, same = [[None, -12.34], [3.0, None]], [[None, "same"], ["same", None]]
    summary["transfer"] = {"tasks": ["polarity", "label"], "gain": gain, "verdict": same, "source": "pairs"}
    assert not any("apart" in sentence for sentence in verdict(summary))
    summary["transfer"]["verdict"] = [[None, "worse"], ["same", None]]
    assert "Train polarity and label apart: polarity loses 12.3 % by label." in verdict(summary)


def test_models_that_part_tasks_that_harm_each_other(summary):
    def said(*worse):
        tasks = ["a", "b", "c", "d"]
        verdicts = [["worse" if (one, other) in worse else "same" for other in tasks] for one in tasks]
        table = {"tasks": tasks, "gain": gain, "verdict": verdicts, "source": "pairs"}
        return [one for one in verdict(summary | {"transfer": table}) if "would part them" in one]

    gain = [[-5.0] * 4 for _ in range(4)]
    assert said() == []
    assert said(("a", "d"), ("b", "d")) == ["2 models would part them: one of a, b and one of c, d."]
    gain[0][2] = gain[2][0] = None
    gain[1][2] = 11.0
    assert said(("a", "d"), ("b", "d")) == ["2 models would part them: one of a, b, c and one of d."]
    table = {"tasks": ["a", "b", "c"], "gain": [[-5.0] * 3] * 3, "source": "pairs"}
    table["verdict"] = [["same", "worse", "same"], ["same"] * 3, ["same"] * 3]
    losing = {"a.mse": {"verdict": "apart", "least_loss": 7.24}}
    sentences = verdict(summary | {"transfer": table, "losing": losing})
    alone = (
        "Every shared model is worse on a.mse than the model of a alone, by 7.2 % at least: not all tasks in one model."
    )
    assert alone in sentences  # it may be trained with c
    # One that loses and one that takes are apart, whoever of them it is.
    assert said(("d", "a"), ("d", "b")) == said(("a", "d"), ("b", "d"))
    assert said(("a", "b"), ("c", "d")) == ["2 models would part them: one of a, d and one of b, c."]
    everyone = [(one, other) for one in "abcd" for other in "abcd" if one != other]
    assert said(*everyone) == []


def test_what_one_model_of_tasks_that_pay_could_try(summary):
    def proposed():
        return [sentence for sentence in verdict(summary) if "private_layers" in sentence]

    assert not proposed()
    gain, harm = [[None, -12.34], [-3.0, None]], [[None, "worse"], ["same", None]]
    summary["transfer"] = {"tasks": ["polarity", "label"], "gain": gain, "verdict": harm, "source": "pairs"}
    summary["losing"] = {"polarity.mse": {"verdict": "apart", "least_loss": 2.0}}
    (sentence,) = proposed()
    room, balance = sentence.removesuffix(".").split(" with ")
    # What it says goes into a recipe as it stands, and a task that loses twice is named once.
    assert room.endswith("model.private_layers: 1")
    assert balance.count("polarity") == 1
    assert yaml.safe_load(balance) == {"balance": {"method": "priority", "of": "dao", "priorities": {"polarity": 3}}}
    summary["losing"] |= {"label.accuracy": {"verdict": "apart", "least_loss": 2.0}}
    assert proposed() == ["Or give each task room in one model: try model.private_layers: 2."]


def test_warnings(summary):
    summary |= {"rows": {"polarity": 120, "label": 5000}, "seeds": [0]}
    sentences = verdict(summary)
    assert any(sentence.startswith("There is one seed only") for sentence in sentences)
    assert any("Few rows are judged (polarity 120). With --folds" in sentence for sentence in sentences)
    assert not any("--folds" in sentence for sentence in verdict(summary | {"folds": 5}))


def test_the_rule_is_one_paragraph():
    assert "\n" not in RULE
    assert "Holm" in RULE
