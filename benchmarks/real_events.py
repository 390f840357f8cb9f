"""Real events of four shops, folded as `stream-mtl backtest` does: counts, AUC, digest, what a subscriber sees.

    STREAM_MTL_SAMPLES=FOLDER python -m benchmarks.real_events [--rehearsals der++ none] [--set KEY=VALUE ...] [--json]

FOLDER holds events_v1.jsonl.gz. The file is folded twice, a few minutes each: whole, and in ten pieces.

- Counts: an independent reading of the JSON (`benchmarks.real_counts`) must find the same records,
  exposures and positives.
- AUC: rows and negatives as they were served, by the model and by what was popular then.
- The digest of the state is the same whole and in pieces.
- With --rehearsals: AUC of every shop as served, what was forgotten of each by the end, and the lists.
- Hit rate of the newest list among 20 (`benchmarks.hit_rate`), and of all 100 candidates.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks import hit_rate, real_counts, report
from benchmarks.report import Figure
from stream_mtl import Config, build
from stream_mtl.batch import Batch
from stream_mtl.files import cuts_of_files
from stream_mtl.pipeline import Pipeline
from stream_mtl.probes import exact_auc
from workers import settings
from workers.backtest import run_backtest

SAMPLES, FILE = "STREAM_MTL_SAMPLES", "events_v1.jsonl.gz"
PIECES = 10
RESAMPLES = 500
ASKED = 1.15  # of the kNN's hit rate
RECALL = 0.293  # of kNN, own, popular and the last category's items
GROUPS = ("all", "known", "click", "purchase")
HELD_OUT = (
    "evaluation.probe_share=0.2",
    "evaluation.probe_every=20",
)  # small shops have few clicks
POPULARITY = ("clicks", "demand")  # dense features: clicks faded by a day, demand by a month
Floats = npt.NDArray[np.float64]


@dataclass
class Judged:
    """Labelled rows as they were served, per task."""

    served: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    popular: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    label: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    domain: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))

    def watch(self, model: Pipeline) -> None:
        """See what the evaluation sees; the fold goes on as it would."""
        spec, observe = model.parts.features.spec, model.parts.evaluation.observe
        columns = [spec.dense_fields.index(name) for name in POPULARITY]

        def seen(served_BC: torch.Tensor, batch: Batch) -> None:
            observe(served_BC, batch)
            for t, task in enumerate(spec.tasks):
                known_B = batch.mask_BT[:, t] & served_BC[:, t].isfinite()
                if known_B.any():
                    self.served[task].append(served_BC[known_B, t].double().numpy())
                    self.popular[task].append(batch.dense_BD[known_B][:, columns].double().numpy())
                    self.label[task].append(batch.label_BT[known_B, t].double().numpy())
                    self.domain[task].append(batch.domain_B[known_B].double().numpy())

        model.parts.evaluation.observe = seen  # type: ignore[method-assign]


@dataclass(frozen=True)
class Folded:
    summary: dict[str, Any]
    exposures: int
    judged: Judged
    domains: list[str]
    lists: hit_rate.Lists
    probes: dict[tuple[str, int], tuple[float, float]]  # (task, domain) to best AUC and AUC at last


def fold_whole(path: Path, config: Config) -> Folded:
    """The backtest in process, so that rows and lists can be looked at."""
    model, judged, lists = build(config, "backtest"), Judged(), hit_rate.Lists()
    judged.watch(model)
    for cut in cuts_of_files([path], config):
        for output in model.step(cut).outputs:
            if not output.key.startswith("query:"):
                empty = {"key": output.key, "event_time": output.event_time}
                lists.add(empty | json.loads(output.value or b"{}"))
    counts = model.parts.join.counts
    exposures = counts["impression"] + counts["search"] + counts["click"] - counts["withdrawn"]
    domains = list(model.parts.shop.items.domains.names)
    evaluation = model.parts.evaluation
    summary = model.summary()  # before the probes are measured once more, which is state
    evaluation.evaluate_probes(lambda rows: model.parts.learner.predict(rows).output_BC)
    return Folded(summary, exposures, judged, domains, lists, evaluation.probes())


def fold_pieces(path: Path, config: Config, folder: Path) -> dict[str, Any]:
    """The same through `backtest`, the lines in ten files, every other one compressed."""
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    files = []
    for piece in range(PIECES):
        part = lines[piece * len(lines) // PIECES : (piece + 1) * len(lines) // PIECES]
        file = folder / (f"{piece}.jsonl.gz" if piece % 2 else f"{piece}.jsonl")
        file.write_bytes(gzip.compress(b"".join(part), 1) if piece % 2 else b"".join(part))
        files.append(file)
    return run_backtest(config, files)


def rules(config: Config) -> real_counts.Rules:
    join, cut, features = config.join, config.cut, config.features
    return real_counts.Rules(
        click=join.click_window_ms,
        purchase=join.purchase_window_ms,
        dedup=join.dedup_ms,
        disorder=join.out_of_order_ms,
        cut_span=cut.file_span_ms,
        cut_records=cut.max_records,
        chunk=features.chunk,
        item_life=features.item_ttl_ms,
    )


def count_figures(folded: Folded, path: Path, config: Config) -> Iterator[Figure]:
    found = real_counts.count(path, rules(config))
    tasks = folded.summary["tasks"]
    pairs = {
        "records": (folded.summary["events_consumed"], found.records),
        "rejected": (folded.summary["events_rejected"], found.rejected),
        "exposures": (folded.exposures, found.exposures),
        "click positives": (tasks["click"]["positives"], found.clicks),
        "purchase positives": (tasks["purchase"]["positives"], found.purchases),
        "search positives": (tasks["search"]["positives"], found.searches),
    }
    for name, (ours, independent) in pairs.items():
        yield Figure(f"6 {name}", ours, f"= {independent} (independent)", ours == independent)


def auc_figures(judged: Judged, domains: Sequence[str]) -> Iterator[Figure]:
    served, popular, label, domain = (
        np.concatenate(part["click"])
        for part in (judged.served, judged.popular, judged.label, judged.domain)
    )
    for code in np.unique(domain).astype(int):
        of_N = domain == code
        positive_N = label[of_N] > 0
        if not positive_N.any() or positive_N.all():
            continue
        ours = exact_auc(served[of_N], positive_N)
        theirs = max(exact_auc(popular[of_N, p], positive_N) for p in range(len(POPULARITY)))
        name = f"6 click AUC, {domains[code]} ({int(positive_N.sum())} clicks)"
        yield Figure(name, ours, f"> {theirs:.4f} (popularity)", ours > theirs)
    served, label = (np.concatenate(part["purchase"]) for part in (judged.served, judged.label))
    low, high = interval(served, label > 0)
    auc = exact_auc(served, label > 0)
    yield Figure("6 purchase AUC", auc, f"95 % in [{low:.3f}, {high:.3f}]", None)


def interval(score_N: Floats, positive_N: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Bootstrap of the AUC over positives and negatives apart, 2.5 to 97.5 %.

    With the negatives sorted once, a positive's share of them that it beats is its whole contribution;
    their number is so large that resampling them would change nothing that shows.
    """
    negative = np.sort(score_N[~positive_N])
    positive = score_N[positive_N]
    below = np.searchsorted(negative, positive, "left")
    up_to = np.searchsorted(negative, positive, "right")
    beats = (below + up_to) / (2.0 * len(negative))
    generator = np.random.default_rng(0)
    means = generator.choice(beats, (RESAMPLES, len(beats))).mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def forgetting_figures(folded: Folded) -> Iterator[Figure]:
    """AUC points lost since the best, on rows that were held out of training."""
    for (task, code), (best, last) in folded.probes.items():
        name = f"8 forgotten of {task}, {folded.domains[code]}, AUC points"
        yield Figure(
            name, 100 * (best - last), f"reported (best {best:.4f}, last {last:.4f})", None
        )


def list_figures(
    path: Path,
    lists: hit_rate.Lists,
    candidates: int,
    groups: Sequence[str] = GROUPS,
    recall: float = RECALL,
) -> Iterator[Figure]:
    """Hit rates of groups of events, the first of which must beat the kNN; and the candidates' recall."""
    rates = hit_rate.measure(list(hit_rate.read(path)), lists, (20, candidates))
    for group in groups:
        kept = {name: rate for (name, of), rate in rates.items() if of == group}
        beside = ", ".join(f"{name} {kept[name].share:.3f}" for name in hit_rate.BASELINES)
        ours, knn = kept["published@20"], kept["knn+popular"]
        holds = ours.share >= ASKED * knn.share if group == groups[0] else None
        name = f"6 hit rate@20, {group} ({ours.asked} asked)"
        wanted = f">= {ASKED} x {knn.share:.4f} ({beside})"
        yield Figure(name, ours.share, wanted, holds)
    found = rates[f"published@{candidates}", "all"].share
    yield Figure(f"6 recall of the {candidates} candidates", found, f"> {recall}", found > recall)


def configured(flags: Sequence[str], candidates: int, more: Sequence[str] = ()) -> Config:
    """The default settings, more of the benchmark's, and what flags say. All candidates are published, best
    first: the first 20 are the default's list, and all of them tell the candidates' recall."""
    all_ = (f"scoring.published={candidates}", *more)
    presets = [(*preset.split("=", 1), "benchmark") for preset in all_]
    given = [(*flag.split("=", 1), "--set") for flag in flags]
    return settings.load(None, {}, given, presets).config  # type: ignore[arg-type]


def rehearsal_figures(path: Path, flags: Sequence[str], loss: str) -> Iterator[Figure]:
    """A fold with this rehearsal, in which a fifth of the exposures is held out for probes."""
    candidates = Config().scoring.candidates
    config = configured(flags, candidates, (*HELD_OUT, f"rehearsal.loss={loss}"))
    folded = fold_whole(path, config)
    for figure in (
        *auc_figures(folded.judged, folded.domains),
        *forgetting_figures(folded),
        *list_figures(path, folded.lists, candidates, ("all", *hit_rate.HALVES)),
    ):
        name, target = figure.figure.partition(" ")[2], figure.target
        yield Figure(f"8 {loss}: {name}", figure.measured, target, None)


def rehearsals(path: Path, flags: Sequence[str], losses: Sequence[str]) -> Iterator[Figure]:
    for loss in losses:
        report.note(f"folding with rehearsal.loss = {loss}")
        yield from rehearsal_figures(path, flags, loss)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = report.parser(__doc__)
    arguments.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments.add_argument("--once", action="store_true", help="leave out the fold in ten pieces")
    arguments.add_argument(
        "--rehearsals", nargs="+", metavar="LOSS", help="compare these and nothing else: der++ none"
    )
    given = arguments.parse_args(argv)
    path = Path(os.environ.get(SAMPLES, "")) / FILE
    if not os.environ.get(SAMPLES) or not path.is_file():
        report.note(
            f"SKIPPED, nothing about real events was measured: set {SAMPLES} to a folder with {FILE}"
        )
        return report.tell([Figure("6 real events", "skipped", "", None)], given.json)
    if given.rehearsals:
        return report.tell(list(rehearsals(path, given.set, given.rehearsals)), given.json)
    candidates = Config().scoring.candidates
    config = configured(given.set, candidates)
    report.note("folding the whole file")
    folded = fold_whole(path, config)
    figures = [*count_figures(folded, path, config), *auc_figures(folded.judged, folded.domains)]
    if not given.once:
        report.note("folding it in ten pieces")
        with tempfile.TemporaryDirectory() as folder:
            pieces = fold_pieces(path, config, Path(folder))
        whole = folded.summary["state_digest"]
        same = whole == pieces["state_digest"]
        figures.append(Figure("6 digest", whole[:16], f"= {pieces['state_digest'][:16]}", same))
    figures += list_figures(path, folded.lists, candidates)
    return report.tell(figures, given.json)


if __name__ == "__main__":
    sys.exit(main())
