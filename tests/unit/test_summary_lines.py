"""The summary as people read it."""

from __future__ import annotations

from workers.output import summary_lines


def test_recall_is_told_and_columns_that_say_nothing_are_left_out() -> None:
    summary = {
        "cuts": 7,
        "recall": {"asked": 50, "candidates": 0.5, "list": None, "sources": {"popular": 0.4}},
        "sharing": {"cosines": {}, "groups": [["click", "search"], ["purchase"]]},
        "tasks": {
            "click": {"auc": 0.75, "rmse": None, "ndcg": None, "window": {"auc": 0.7}},
            "search": {"auc": 0.7, "rmse": None, "ndcg": 0.6},
        },
    }
    text = "\n".join(summary_lines(summary))
    assert "recall_candidates  0.5" in text
    assert "recall_list        -" in text
    assert "sources" not in text
    assert "tasks that agree   click + search; purchase" in text
    header = next(line for line in summary_lines(summary) if line.startswith("task "))
    assert header.split() == ["task", "auc", "ndcg"]
