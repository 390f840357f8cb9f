"""Order lines of a wholesale shop as events; and lists in a shop that is visited to buy the same again."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from benchmarks import hit_rate
from benchmarks.online_retail import SHOP, catalogue, purchases, write
from benchmarks.real_events import configured, fold_whole
from stream_mtl import Config
from stream_mtl.files import records_of_files
from stream_mtl.serde import decode_all


def line(invoice: str, code: str, day: int = 1, customer: float | None = 7.0, **more: Any) -> Any:
    date = datetime(2009, 12, 1, 7, 45) + timedelta(days=day)
    return {
        "Invoice": invoice,
        "StockCode": code,
        "Description": f"GLASS {code}",
        "Quantity": 12,
        "InvoiceDate": str(date),
        "Price": 6.95,
        "Customer ID": customer,
        "Country": "France",
        **more,
    }


def test_only_what_known_customers_bought_and_did_not_cancel_is_an_event() -> None:
    lines = [
        line("2", "85048", day=2),
        line("1", "85049"),
        line("1", "85049", Quantity=3),  # the same product twice in an order
        line("C3", "85050", Quantity=-12),
        line("4", "85051", customer=None),
        line("5", "POST"),
        line("6", "85052P", Quantity=0),
    ]
    found = [(e["order_id"], e["item_id"], e["quantity"]) for e in purchases(lines)]
    assert found == [("1", "85049", 12), ("2", "85048", 12)]


def test_the_catalogue_comes_before_the_first_purchase_and_every_record_is_read(
    tmp_path: Path,
) -> None:
    lines = [line(str(n), f"8504{n}", day=n) for n in range(5)]
    lines += [line("9", "85040", day=9, Description=None)]
    write(tmp_path / "e.jsonl", lines, 3)
    events = list(hit_rate.read(tmp_path / "e.jsonl"))
    assert [e["type"] for e in events] == ["item"] * 5 + ["purchase"] * 3
    assert {e["item_id"] for e in events[:5]} == {f"8504{n}" for n in range(5)}
    assert max(e["event_time"] for e in events[:5]) < min(e["event_time"] for e in events[5:])
    titles = {e["item_id"]: e["title"] for e in catalogue(lines, 0)}
    assert titles["85040"] == "GLASS 85040"  # of its first line
    config = Config()
    decoded = decode_all(
        list(records_of_files([tmp_path / "e.jsonl"], 10_000)), config.source, config.topics
    )
    assert (len(decoded.events), len(decoded.rejects)) == (8, 0)


@pytest.mark.parametrize(("presets", "at_least", "at_most"), [(SHOP, 0.9, 1.0), ((), 0.0, 0.5)])
def test_customers_who_order_the_same_again_find_it_in_their_list(
    tmp_path: Path, presets: tuple[str, ...], at_least: float, at_most: float
) -> None:
    """With the settings of such a shop: weeks lie between orders. By default what was bought rests for a day, and a
    customer is forgotten in a month."""
    lines = []
    for order in range(5):
        for customer in range(12):
            for product in range(6):
                code = f"{10_000 + 6 * customer + product}"
                number, day = f"{order}{customer:02}", 40 * order + customer
                lines.append(line(number, code, day, float(customer)))
    path = tmp_path / "e.jsonl"
    write(path, lines, len(lines))
    config = configured(("scoring.quiet_users=0",), 20, presets)
    folded = fold_whole(path, config)
    rate = hit_rate.measure(list(hit_rate.read(path)), folded.lists)["published@20", "known"]
    assert rate.asked > 200
    assert at_least <= rate.share <= at_most


def test_every_user_is_in_one_half_and_both_are_asked() -> None:
    events = [
        {"type": "click", "event_time": n, "user_id": f"u{n % 40}", "item_id": f"i{n % 7}"}
        for n in range(400)
    ]
    rates = hit_rate.measure([json.loads(json.dumps(e)) for e in events])
    asked = [rates["popular", group].asked for group in (*hit_rate.HALVES, "all")]
    assert asked[0] + asked[1] == asked[2]
    assert min(asked) > 50
