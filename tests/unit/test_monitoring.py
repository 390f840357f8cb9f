"""What operators build on: the alert rules and the page about metrics say nothing that the worker does not export."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_mtl.metrics import METRICS, PREFIX

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ALERTS.with_name("alerts_test.yml")
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
EXPORTED = {
    name + suffix: labels
    for name, (kind, _, labels, _) in METRICS.items()
    for suffix in SUFFIXES[kind]
}
TOLD = {  # as the page has them: a histogram without the suffixes of its series
    f"{name}_total" if kind == "counter" else name: labels
    for name, (kind, _, labels, _) in METRICS.items()
}
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
]


def anchors(page: Path) -> set[str]:
    """As they are made of headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_reads_what_the_worker_exports(rule: dict[str, Any]) -> None:
    used = re.findall(rf"{PREFIX}(\w+)(?:\{{(.*?)\}})?", rule["expr"])
    assert used or rule["alert"] == "StreamMtlDown"
    for name, matchers in used:
        assert name in EXPORTED, f"{PREFIX}{name} is not exported"
        asked = set(re.findall(r"(\w+)\s*[!=]", matchers))
        assert asked <= set(EXPORTED[name]), f"{name} has no such label: {asked}"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_urgent_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in anchors(ROOT / page)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_has_a_case_that_fires_and_one_that_stays_quiet(rule: dict[str, Any]) -> None:
    expected = [
        bool(one["exp_alerts"])
        for case in yaml.safe_load(CASES.read_text())["tests"]
        for one in case["alert_rule_test"]
        if one["alertname"] == rule["alert"]
    ]
    assert sorted(expected) == [False, True]
    assert rule["alert"] in PAGE


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs promtool, of Debian's prometheus"
)
def test_promtool_finds_the_cases_as_they_should_be() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", str(CASES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(TOLD))
def test_the_page_names_every_metric(name: str) -> None:
    assert re.search(rf"`{name}(\{{[\w,]+\}})?`", PAGE), f"docs/monitoring.md does not name {name}"


def test_the_page_names_labels_as_they_are() -> None:
    told = re.findall(r"`(\w+)\{([\w,]+)\}`", PAGE)
    assert {name: tuple(labels.split(",")) for name, labels in told} == {
        name: labels for name, labels in TOLD.items() if labels and name != "build_info"
    }
