"""Searches: spaces and objectives, trials and studies, and what is recommended."""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, NumericError, StorageError
from stream_mtl.pipeline import Pipeline
from stream_mtl.simulator import as_line, simulate
from stream_mtl.tuning import search
from stream_mtl.tuning.comparison import jackknife_error, student_bound
from stream_mtl.tuning.objective import Objective
from stream_mtl.tuning.search import Plan, Report
from stream_mtl.tuning.space import (
    Choices,
    Range,
    Space,
    as_toml,
    check_space,
    configured,
    default_space,
    read_space,
)
from stream_mtl.tuning.study import Trial
from stream_mtl.tuning.trial_fold import PARTS, TrialFold, marks, unpublished
from workers.backtest import run_backtest
from workers.cli import run
from workers.tune import report_lines, write_config

EVENTS = 1_050
SETTINGS: dict[str, Any] = {
    "features": {"table_rows": 512},
    "learner": {"batch_rows": 256, "first_rows": 128},
    "cut": {"file_span_ms": 1_200_000},
    "join": {"click_window_ms": 60_000},
    "model": {"name": "shared_bottom", "hidden": 16, "tower": 8},
    "rehearsal": {"ratio": 0.25},
}
SPACE: Space = {
    "optimizer.dense_lr": Range(1e-4, 1e-2, log=True),
    "model.name": Choices(("shared_bottom", "single")),
    "memory.rows": Range(128, 256),
}


class Ear:
    def __init__(self) -> None:
        self.folds: list[str] = []
        self.trials: list[Trial] = []

    def folding(self, what: str) -> None:
        self.folds.append(what)

    def given(self, tuning: float, later: float) -> None:
        assert tuning > 0
        assert later > 0

    def trial(self, trial: Trial) -> None:
        self.trials.append(trial)


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.model_validate(SETTINGS)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred events; the catalogue is left out, for it would be most of them."""
    path = tmp_path_factory.mktemp("events") / "events.jsonl"
    lines = [as_line(record) for record in simulate("steady", EVENTS, 3)]
    path.write_bytes(b"".join(line + b"\n" for line in lines if b'"type":"item"' not in line))
    return path


@pytest.fixture(scope="module")
def plan(config: Config, events: Path) -> Plan:
    objective = Objective.parse("normalized_entropy", list(config.tasks))
    return Plan((events,), objective, trials=3, finalists=2, seeds=1)


def tuned(config: Config, space: Space, plan: Plan, ear: Ear | None = None) -> Report:
    return search.tune(config, space, plan, ear or Ear(), lambda: True)


@pytest.fixture(scope="module")
def report(config: Config, plan: Plan) -> Report:
    return tuned(config, SPACE, plan)


# ---- spaces


def test_the_default_space_fits_the_default_configuration_and_survives_its_file(
    tmp_path: Path,
) -> None:
    space = default_space(Config())
    check_space(space, Config())
    path = tmp_path / "space.toml"
    path.write_text(as_toml(space))
    assert read_space(path) == space


@pytest.mark.parametrize(
    "name,text",
    [
        ("s.toml", "[optimizer]\ndense_lr = {low = 1e-4, high = 1e-3, log = true}\n"),
        ("s.toml", '["optimizer.dense_lr"]\nlow = 1e-4\nhigh = 1e-3\nlog = true\n'),
        ("s.yaml", "optimizer:\n  dense_lr: {low: 0.0001, high: 0.001, log: true}\n"),
    ],
)
def test_a_space_may_be_nested_or_dotted_toml_or_yaml(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert read_space(tmp_path / name) == {"optimizer.dense_lr": Range(1e-4, 1e-3, log=True)}


@pytest.mark.parametrize(
    "text,said",
    [
        ("optimizer.dense_rate = {low = 1, high = 2}", "did you mean optimizer.dense_lr"),
        ("optimizer.dense_lr = {low = -1, high = 2}", "greater than 0"),
        ("learner.average = {low = 0.5, high = 1.5}", "less than 1"),
        ("optimizer.dense_lr = {low = 2, high = 1}", "not below"),
        ("optimizer.dense_lr = {low = 0, high = 1, log = true}", "above 0"),
        ("optimizer.dense_lr = {low = 0.1, hihg = 1}", "'hihg'"),
        ("optimizer.dense_lr = {low = 0.1}", "expected `low` and `high`"),
        ("optimizer.dense_lr = 0.1", "found 0.1"),
        ("memory.rows = {low = 1.5, high = 9}", "whole number"),
        ("model.name = {low = 1, high = 2}", "give `choices`"),
        ("model.name = {choices = []}", "something in it"),
        ("balancer.name = {choices = ['weighted', 'scales']}", "use one of: aligned"),
        ("rehearsal.loss = {choices = ['derr']}", "der++"),
        ("model.interactions = {choices = ['fm', 'mf']}", "'mf'"),
        ("tasks.clik.weight = {low = 1, high = 2}", "tasks are click, purchase, search"),
        ("tasks.click.kind = {choices = ['binary']}", "changes what is judged"),
        ("join.click_window_ms = {low = 1, high = 2}", "changes what is judged"),
        ("cut.max_records = {low = 1, high = 2}", "nothing that is"),
        ("", "names no setting"),
    ],
)
def test_a_space_that_cannot_be_is_refused_before_the_first_trial(
    text: str, said: str, tmp_path: Path, events: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "space.toml"
    path.write_text(text + "\n")
    assert run(["tune", str(events), "--space", str(path), "--json"]) == 78
    out, err = capsys.readouterr()
    assert said in json.loads(out)["error"]["message"]
    assert "tune: " not in err


def test_every_fault_of_a_space_is_named(config: Config) -> None:
    space: Space = {"model.hiden": Choices((1,)), "balancer.name": Choices(("scales",))}
    with pytest.raises(ConfigError, match=r"(?s)model\.hiden.*scales"):
        check_space(space, config)


def test_a_tuned_task_leaves_the_other_tasks_and_their_fields_alone() -> None:
    found = configured(Config(), {"tasks.purchase.weight": 0.5})
    assert found.tasks["purchase"].weight == 0.5
    assert found.tasks["purchase"].after == "click"
    assert list(found.tasks) == list(Config().tasks)


def test_a_value_list_that_was_not_given_stays_not_given() -> None:
    """A default weight of a task that is not there is passed over, a given one is an error."""
    tasks = {"buy": {"kind": "binary"}}
    found = configured(Config.model_validate({"tasks": tasks}), {"model.hidden": 8})
    assert "scoring" not in found.model_fields_set


# ---- objectives


def test_an_objective_is_a_mean_over_tasks_or_one_of_them() -> None:
    qualities = {"a": {"auc": 0.6}, "b": {"auc": 0.8}, "c": {"auc": None}}
    mean = Objective.parse("auc", list(qualities))
    assert mean.value(qualities) is None
    assert mean.known_in(qualities).value(qualities) == pytest.approx(0.7)
    assert Objective.parse("b.auc", list(qualities)).value(qualities) == 0.8
    assert Objective.parse("auc", ["a"]).value({"a": {"auc": math.nan}}) is None


def test_a_gain_is_positive_for_the_better_whichever_way_the_metric_goes() -> None:
    assert Objective.parse("auc", ["a"]).gain(0.8, over=0.7) > 0
    assert Objective.parse("rmse", ["a"]).gain(0.7, over=0.8) > 0


@pytest.mark.parametrize("text", ["click.acu", "buy.auc", "forgetting", ""])
def test_an_unknown_objective_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(ConfigError, match=r"auc|click"):
        Objective.parse(text, ["click"])


# ---- noise


def test_the_jackknife_of_a_mean_is_its_textbook_standard_error() -> None:
    values = [random.Random(3).gauss(0, 1) for _ in range(20)]
    without = [(sum(values) - value) / 19 for value in values]
    assert jackknife_error(without) == pytest.approx(stats.sem(values))


@pytest.mark.parametrize("level", [0.05, 0.05 / 3, 0.01])
@pytest.mark.parametrize("degrees", [10, 19, 100])
def test_the_bound_is_students(level: float, degrees: int) -> None:
    assert student_bound(level, degrees) == pytest.approx(stats.t.isf(level, degrees), abs=0.01)


# ---- folds


def test_spans_of_a_fold_add_up_to_the_backtest(config: Config, events: Path) -> None:
    """Marks do not disturb the fold, and lists that are not published do not change what is judged."""
    whole = run_backtest(config, [events])
    fold = TrialFold(config, (events,))
    for mark in (150, 290, 10**9):
        fold.to(mark)
    assert whole["scores_published"] > 100
    for name, found in fold.qualities(0, 3).items():
        wanted = whole["tasks"][name]
        for metric in ("labels", "positives", "auc", "normalized_entropy", "ndcg", "calibration"):
            assert found[metric] == pytest.approx(wanted[metric]), (name, metric)
    parts = [fold.qualities(i, i + 1)["click"]["labels"] for i in range(3)]
    assert all(parts)
    assert sum(part or 0 for part in parts) == whole["tasks"]["click"]["labels"]


def test_a_span_is_judged_by_its_own_rows_alone(config: Config, events: Path) -> None:
    """Log loss of all is the mean of the spans' losses, weighted by their labels: by the definition."""
    fold = TrialFold(config, (events,))
    for mark in (200, 10**9):
        fold.to(mark)

    def loss(first: int, last: int) -> float:
        found = fold.qualities(first, last)["click"]
        labels, rate = found["labels"], (found["positives"] or 0) / (found["labels"] or 1)
        entropy = -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
        return (found["normalized_entropy"] or 0) * entropy * (labels or 0)

    assert loss(0, 1) + loss(1, 2) == pytest.approx(loss(0, 2))


def test_marks_cut_the_records_in_their_order() -> None:
    found = marks(1_000, 0.7)
    assert found.tuning[-1] == 700
    assert found.later[-1] == 1_000
    assert list(found.tuning + found.later) == sorted(set(found.tuning + found.later))


def test_next_to_no_lists_are_published(config: Config) -> None:
    quiet = unpublished(config)
    assert quiet.scoring.min_interval_ms > 10**12
    assert quiet.model_copy(update={"scoring": config.scoring}) == config


# ---- searches


def test_the_same_search_gives_the_same_report(report: Report, config: Config, plan: Plan) -> None:
    assert tuned(config, SPACE, plan).as_json() == report.as_json()


def test_another_seed_tries_other_values(
    report: Report, config: Config, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TrialFold", _Quick)
    other = tuned(config.model_copy(update={"seed": 1}), SPACE, plan)
    assert other.trials[0].settings != report.trials[0].settings


def test_trials_stay_within_the_space(report: Report) -> None:
    assert len(report.trials) == 3
    for trial in report.trials:
        assert trial.state == "done"
        assert set(trial.settings) == set(SPACE)
        rows = trial.settings["memory.rows"]
        assert isinstance(rows, int)
        assert 128 <= rows <= 256
    assert len({trial.value for trial in report.trials}) == 3


def test_the_report_gives_both_spans_of_the_best_and_of_the_given(report: Report) -> None:
    best, given = report.finalists[0], report.baseline
    assert best.tuning == min(t.value for t in report.trials if t.value is not None)
    assert best.later is not None
    assert best.gain == pytest.approx(given["later"] - best.later)
    assert {"baseline", "best", "trials", "recommended", "settings"} <= set(report.as_json())
    assert "purchase" in report.unjudged  # its window is longer than the file
    json.dumps(report.as_json(), allow_nan=False)


def test_a_study_taken_up_again_ends_like_one_in_a_single_run(
    report: Report, config: Config, plan: Plan, tmp_path: Path
) -> None:
    """Interrupted in the middle of a trial too, which then does not count."""
    plan = replace(plan, study=tmp_path / "study.db")

    class Impatient(Ear):
        def trial(self, trial: Trial) -> None:
            super().trial(trial)
            if trial.number == 1:  # the next trial is stopped at its first mark
                patch.setattr(TrialFold, "to", interrupt)

    def interrupt(self: TrialFold, mark: int) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        tuned(config, SPACE, plan, Impatient())
    heard = Ear()
    again = tuned(config, SPACE, plan, heard).as_json()
    wanted = report.as_json()
    for found in (again, wanted):
        for trial in found["trials"] + found["finalists"] + [found["best"]]:
            trial.pop("number", None)  # the interrupted one has a number too
            trial.pop("trial", None)
        found["recommended"] = found["recommended"].split()[0]
    assert again == wanted
    assert len(heard.trials) == 1


def test_a_study_of_something_else_is_refused(config: Config, plan: Plan, tmp_path: Path) -> None:
    one = replace(plan, trials=1, finalists=1, study=tmp_path / "study.db")
    heard = Ear()
    tuned(config, SPACE, one, heard)
    auc = replace(one, objective=Objective.parse("click.auc", ["click"]))
    for other, space, asked in (
        (config.model_copy(update={"seed": 1}), "configuration", one),
        (config, "objective", auc),
        (config, "tuning share", replace(one, share=0.5)),
    ):
        with pytest.raises(ConfigError, match=f"of other {space}"):
            tuned(other, SPACE, asked, heard)
    with pytest.raises(ConfigError, match="of other space"):
        tuned(config, {"model.hidden": Choices((8,))}, one, heard)
    assert heard.folds.count("the given configuration") == 1


def test_a_file_that_is_no_study_is_left_alone(config: Config, plan: Plan, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a data base at all")
    with pytest.raises(ConfigError, match="no study"):
        tuned(config, SPACE, replace(plan, study=path))
    assert path.read_text() == "not a data base at all"
    with pytest.raises(StorageError, match="cannot open"):
        tuned(config, SPACE, replace(plan, study=tmp_path / "none" / "study.db"))


def test_a_trial_that_cannot_be_is_a_failed_trial(config: Config, plan: Plan) -> None:
    """A projected gradient and a balancer that looks at gradients do not go together."""
    space: Space = {
        "rehearsal.loss": Choices(("agem",)),
        "balancer.name": Choices(("pcgrad",)),
    }
    found = tuned(config, space, replace(plan, trials=2))
    assert [trial.state for trial in found.trials] == ["failed", "failed"]
    assert "agem" in found.trials[0].reason
    assert found.recommended is None
    assert found.as_json()["settings"] == {}


def test_a_trial_that_breaks_down_is_a_failed_trial(
    config: Config, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Pipeline.step

    def breaks(self: Pipeline, cut: Any) -> Any:
        if self.config.optimizer.dense_lr > 1e-3:
            raise NumericError("5 steps in a row were not finite")
        return step(self, cut)

    monkeypatch.setattr(Pipeline, "step", breaks)
    space: Space = {"optimizer.dense_lr": Choices((5e-4, 1e-2))}
    found = tuned(config, space, replace(plan, trials=8, finalists=1))
    assert {(t.settings["optimizer.dense_lr"], t.state) for t in found.trials} == {
        (5e-4, "done"),
        (1e-2, "failed"),
    }
    assert found.finalists[0].gain == 0  # it is the given configuration


def test_a_bad_trial_ends_early(config: Config, plan: Plan) -> None:
    """Once five are there to compare with: it is worse than the median of those before."""
    space: Space = {"optimizer.first_lr": Range(1e-3, 1.0)}
    heard = Ear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "TrialFold", _Quick)
        tuned(config, space, replace(plan, trials=15, finalists=1), heard)
    assert [trial.state for trial in heard.trials[:5]] == ["done"] * 5
    assert {trial.state for trial in heard.trials[5:]} == {"done", "pruned"}
    for number, trial in enumerate(heard.trials[5:], 5):
        done = [t.value for t in heard.trials[:number] if t.state == "done" and t.value is not None]
        rate = trial.settings["optimizer.first_lr"]
        assert isinstance(rate, float)
        assert (trial.state == "pruned") is (rate > statistics.median(done))


class _Quick:
    """A fold whose entropy is its first rate, without a fold: for what is done with values."""

    def __init__(self, config: Config, files: Any, later: float = 0.0) -> None:
        self.rate, self.later, self.seed = config.optimizer.first_lr, later, config.seed
        self.marks = 0

    def to(self, mark: int) -> None:
        self.marks += 1

    def qualities(self, first: int, last: int) -> dict[str, dict[str, float | int | None]]:
        return {t: {"normalized_entropy": self.value(None, first, last)} for t in Config().tasks}

    def value(self, objective: Any, first: int, last: int) -> float:
        assert self.marks >= last
        return self.rate + 0.001 * self.seed + (self.later if first >= PARTS else 0.0)

    def without_each_block(self, objective: Any, first: int, last: int) -> list[float]:
        wave = 1e-5 if self.rate > 1e-3 else -1e-5
        return [self.value(None, first, last) + wave * (-1) ** i for i in range(last - first)]


@pytest.mark.parametrize(
    "gain,recommended",
    [(0.005, True), (0.0009, False), (0.0001, False), (-0.005, False)],
    ids=["better", "within-the-noise-of-a-seed", "within-the-noise-of-events", "worse"],
)
def test_a_trial_is_recommended_only_for_a_gain_on_the_later_span_beyond_the_noise(
    gain: float,
    recommended: bool,
    config: Config,
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the tuning span it wins by far in every case; another seed of the given configuration moves by .001."""

    def fold(config: Config, files: Any) -> _Quick:
        given = config.optimizer.first_lr == 2e-3
        return _Quick(config, files, 0.0 if given else 1.5e-3 - gain)

    monkeypatch.setattr(search, "TrialFold", fold)
    space: Space = {"optimizer.first_lr": Choices((5e-4,))}
    found = tuned(config, space, replace(plan, trials=2))
    assert found.finalists[0].tuning == 5e-4 < found.baseline["tuning"]
    assert found.finalists[0].gain == pytest.approx(gain)
    assert (found.recommended is not None) is recommended
    asked_seeds = gain > 5e-4  # seeds are folded only where the noise of the events is exceeded
    assert found.seed_gains == ([pytest.approx(-0.001)] if asked_seeds else [])
    assert found.as_json()["settings"] == ({"optimizer.first_lr": 5e-4} if recommended else {})


def test_a_seed_that_breaks_down_tells_no_noise(
    config: Config, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search goes on: hours of trials are behind it."""

    class Breaks(_Quick):
        def to(self, mark: int) -> None:
            super().to(mark)
            if self.seed == 1:
                raise NumericError("5 steps in a row were not finite")

    monkeypatch.setattr(search, "TrialFold", Breaks)
    found = tuned(
        config, {"optimizer.first_lr": Choices((5e-4,))}, replace(plan, trials=1, seeds=2)
    )
    assert found.seed_gains == [pytest.approx(-0.002)]  # of seed 2
    assert found.recommended is None  # it gains .0015


def test_no_trial_begins_after_the_time_is_up(config: Config, plan: Plan) -> None:
    turns = iter([True, False])
    found = search.tune(config, SPACE, plan, Ear(), lambda: next(turns))
    assert len(found.trials) == len(found.finalists) == 1


def test_events_that_are_too_few_or_without_labels_are_refused(
    config: Config, plan: Plan, events: Path, tmp_path: Path
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_bytes(b"\n".join(events.read_bytes().splitlines()[:20]))
    with pytest.raises(ConfigError, match="too few"):
        tuned(config, SPACE, replace(plan, files=(few,)))
    buys = replace(plan, objective=Objective.parse("purchase.auc", ["purchase"]))
    with pytest.raises(ConfigError, match="no task has a auc"):
        tuned(config, SPACE, buys)
    with pytest.raises(ConfigError, match="no such file"):
        tuned(config, SPACE, replace(plan, files=(tmp_path / "none.jsonl",)))


# ---- the verb


def test_the_verb_prints_one_object_and_writes_a_file_that_holds_what_it_says(
    events: Path, config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, space, out = (tmp_path / name for name in ("given.yaml", "space.toml", "best.toml"))
    given.write_text(json.dumps(SETTINGS))
    space.write_text(as_toml(SPACE))
    asked = ["tune", str(events), "-c", str(given), "--space", str(space), "--out", str(out)]
    assert run([*asked, "--trials", "1", "--set", "app=other", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert len(found["trials"]) == 1
    assert "tune: trial 0 of 1: done" in said.err
    wanted = configured(config.model_copy(update={"app": "other"}), found["settings"])
    assert Config.load(out) == wanted


def test_people_read_both_spans_and_what_is_recommended(report: Report) -> None:
    said = "\n".join(report_lines(report))
    best = report.finalists[0]
    assert f"{report.baseline['later']:.4g}" in said
    assert f"{best.tuning:.4g}" in said
    assert f"{best.later:.4g}" in said
    assert "not judged, for want of labels in both spans: purchase" in said
    assert "recommended: " in said


def test_what_is_written_holds_the_settings_and_no_secret(tmp_path: Path) -> None:
    client = {"sasl.username": "u", "sasl.password": "p4ss"}
    config = Config.model_validate({"kafka": {"client": client}, "app": "a", "seed": 3})
    path = tmp_path / "best.toml"
    write_config(path, config, {"tasks.search.weight": 0.25, "model.name": "ple"})
    text = path.read_text()
    assert "p4ss" not in text
    assert "# left out, a secret: kafka.client.sasl.password" in text
    found = Config.load(path)
    assert (found.app, found.seed, found.model.name) == ("a", 3, "ple")
    assert found.tasks["search"].weight == 0.25
    assert tomllib.loads(text)["kafka"]["client"] == {"sasl.username": "u"}


def test_the_space_is_shown_without_events(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tune", "--show-space"]) == 0
    assert "optimizer.dense_lr = { low = 0.0001" in capsys.readouterr().out
    assert run(["tune", "--show-space", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model.experts"] == {"low": 2, "high": 8}


def test_a_place_that_cannot_be_written_is_told_before_the_trials(
    events: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option in ("--out", "--study"):
        assert run(["tune", str(events), option, str(tmp_path / "none" / "x")]) == 74
        said = capsys.readouterr().err
        assert "no such folder" in said
        assert "tune: " not in said


def test_without_optuna_the_remedy_is_named(
    events: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    for name in ("search", "study"):
        monkeypatch.delitem(sys.modules, f"stream_mtl.tuning.{name}")
    assert run(["tune", str(events), "--json"]) == 78
    assert (
        "pip install 'stream-mtl[tune]'" in json.loads(capsys.readouterr().out)["error"]["message"]
    )
