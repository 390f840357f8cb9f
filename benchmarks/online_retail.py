"""A year of a wholesale gift shop (Online Retail II, UCI 502): purchases alone, the catalogue announced ahead.

    STREAM_MTL_SAMPLES=FOLDER python -m benchmarks.online_retail [--purchases N] [--set KEY=VALUE ...] [--json]

FOLDER holds online_retail_ii_2009_2010.parquet, which needs pyarrow. Nothing was clicked or shown here: an order of some
twenty lines has one time, so all of it is asked about from what was known before the order. Kept are lines of known
customers with a product's code and a quantity above 0, one a product and order; cancellations are left out.

What differs from the default settings (`SHOP`): users and items live longer than a year, since orders are weeks apart, a history holds
several orders, and what was bought is offered again. They were chosen on half of the customers ("chosen") and are
reported on the other half.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import hit_rate, report
from benchmarks.real_events import SAMPLES, configured, fold_whole, list_figures
from benchmarks.report import Figure
from stream_mtl import Config

FILE = "online_retail_ii_2009_2010.parquet"
YEAR = 400 * 86_400_000  # ms, and some
SHOP = (
    f"features.user_ttl_ms={YEAR}",
    f"features.item_ttl_ms={YEAR}",
    "features.history=400",
    "retrieval.rest_ms=0",
    "retrieval.rebuy=90",
)
DOMAIN = "gifts"
DIGITS = 5  # a product's code begins with so many; postage, fees and samples have none

Line = Mapping[str, Any]


def order_lines(path: Path) -> list[Line]:
    """Rows of the file as they are. Raises ImportError without pyarrow."""
    from pyarrow import parquet

    return list(parquet.read_table(path).to_pylist())


def is_kept(line: Line) -> bool:
    known, code = line["Customer ID"] is not None, line["StockCode"][:DIGITS]
    cancelled = line["Invoice"].startswith("C")
    return bool(known and not cancelled and line["Quantity"] > 0 and code.isdigit())


def purchases(lines: Iterable[Line]) -> list[dict[str, Any]]:
    """In time order, one a product and order; times are read as UTC."""
    kept = filter(is_kept, lines)
    first = {(line["Invoice"], line["StockCode"]): line for line in reversed(list(kept))}
    events = [
        {
            "type": "purchase",
            "event_time": _milliseconds(line["InvoiceDate"]),
            "user_id": str(int(line["Customer ID"])),
            "event_id": f"{order}/{code}",
            "item_id": code,
            "order_id": order,
            "quantity": line["Quantity"],
            "price": line["Price"],
            "currency": "GBP",
            "domain": DOMAIN,
        }
        for (order, code), line in reversed(first.items())
    ]
    return sorted(events, key=lambda event: event["event_time"])


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1_000)


def catalogue(lines: Iterable[Line], time_ms: int) -> Iterator[dict[str, Any]]:
    """An announcement of every product, as its first line names and prices it."""
    first = {line["StockCode"]: line for line in reversed(list(filter(is_kept, lines)))}
    for code, line in reversed(first.items()):
        record = {"type": "item", "event_time": time_ms, "item_id": code, "domain": DOMAIN}
        yield record | {"title": line["Description"] or "", "price": line["Price"]}


def write(path: Path, lines: Sequence[Line], limit: int) -> None:
    """The events as a file: the whole catalogue, then the first purchases."""
    bought = purchases(lines)[:limit]
    announced = catalogue(lines, bought[0]["event_time"] - 1)
    path.write_text("".join(json.dumps(event) + "\n" for event in (*announced, *bought)))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = report.parser(__doc__)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments.add_argument("--purchases", type=int, default=60_000, help="the first so many")
    given = arguments.parse_args(argv)
    source = Path(os.environ.get(SAMPLES, "")) / FILE
    if not os.environ.get(SAMPLES) or not source.is_file():
        report.note(f"SKIPPED, nothing was measured: set {SAMPLES} to a folder with {FILE}")
        return report.tell([Figure("8 Online Retail", "skipped", "", None)], given.json)
    candidates = Config().scoring.candidates
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        write(path, order_lines(source), given.purchases)
        report.note("folding it")
        folded = fold_whole(path, configured(given.set, candidates, SHOP))
        groups = ("all", *hit_rate.HALVES, "known")
        figures = [
            Figure(f"8 Online Retail: {f.figure.partition(' ')[2]}", f.measured, f.target, f.holds)
            for f in list_figures(path, folded.lists, candidates, groups)
        ]
    return report.tell(figures, given.json)


if __name__ == "__main__":
    sys.exit(main())
