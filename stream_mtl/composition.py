"""Config to pipeline: the one file that names concrete classes."""

from __future__ import annotations

from functools import partial

import torch

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError
from stream_mtl.evaluation import Evaluation
from stream_mtl.features import Features
from stream_mtl.label_join import LabelJoin
from stream_mtl.labels import attributes, joining
from stream_mtl.learner import Learner
from stream_mtl.parts import Parts
from stream_mtl.pending import Pending
from stream_mtl.pipeline import Pipeline
from stream_mtl.publish_gate import PublishGate
from stream_mtl.reactions import Reactions
from stream_mtl.reactions_fit import check_reactions
from stream_mtl.recall import Recall
from stream_mtl.retrieval import SOURCES, Retrieval
from stream_mtl.row_limit import RowLimit
from stream_mtl.scoring import Scoring
from stream_mtl.searches import Searches
from stream_mtl.shop import Shop
from stream_mtl.spans import Spans
from stream_mtl.text import Encoder, load_encoder
from stream_mtl.thinning import thinner
from stream_mtl.threads import limit
from stream_mtl.throttle import Throttle
from stream_mtl.two_tower import TwoTower
from stream_mtl.watermark import Watermark


def compose(config: Config, lineage: str) -> Pipeline:
    """The fold in its empty state. Raises ConfigError for names and combinations that do not exist."""
    if (config.source.rank, config.source.ranks) != (0, 1):
        raise ConfigError(
            f"source.rank = {config.source.rank} of source.ranks = {config.source.ranks}: one process learns from all"
            " partitions, several would each miss what the others read; use rank 0 of 1"
        )
    limit(config.threads)
    encoder = load_encoder(config.text)
    return Pipeline(config, partial(parts, encoder=encoder), lineage)


def parts(config: Config, encoder: Encoder) -> Parts:
    """The stages, empty."""
    shop = Shop(config.features, encoder.dim, attributes(config.tasks), config.defence)
    towers = TwoTower(shop, config.retrieval, config.seed) if config.retrieval.learned else None
    searches = Searches(config)
    retrieval = Retrieval(shop, config, towers, searches)
    recall = Recall(shop, SOURCES, config.scoring.candidates)
    features = Features(shop, retrieval, config)
    learner = Learner(features.spec, config, choose_device(config.device))
    check_reactions(config, learner.measures_affinity)
    evaluation = Evaluation(
        config.evaluation,
        features.spec,
        [
            name
            for name, kind in zip(config.tasks, learner.kinds, strict=True)
            if "ndcg" in kind.metrics
        ],
        config.drift,
        learner.kinds,
    )
    spans = Spans(config.rehearsal.span_ms, learner.consolidates)
    gate = PublishGate(config.gate, features.spec.tasks, learner.serving, config.seed)
    return Parts(
        watermark=Watermark(config.join.out_of_order_ms, config.cut.idle_cuts),
        throttle=Throttle(config.defence),
        join=LabelJoin(joining(config.join, config.tasks)),
        shop=shop,
        features=features,
        row_limit=RowLimit(config.defence),
        evaluation=evaluation,
        pending=Pending(
            features.spec,
            config.learner.batch_rows,
            config.learner.first_rows,
            thinner(config.tasks),
        ),
        learner=learner,
        publish_gate=gate,
        scoring=Scoring(config, shop, retrieval, features, learner, gate, recall),
        encoder=encoder,
        spans=spans,
        reactions=Reactions(config, evaluation, learner, spans),
        recall=recall,
        towers=towers,
        searches=searches,
    )


def choose_device(wanted: str) -> torch.device:
    """`auto` takes a GPU where there is one."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "device = 'cuda', but torch sees no GPU. Set device = 'auto' or 'cpu', or check the driver."
        )
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)
