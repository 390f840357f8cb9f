"""What this process is to a ledger: the same settings, release and machine for a start, a check, a replay and an audit."""

from __future__ import annotations

from schemas.scores import LedgerRecord
from stream_mtl.config import Config, fold_hash
from stream_mtl.ledger import Context
from stream_mtl.recovery import moved


def environment_of(config: Config) -> dict[str, str]:
    """Of a fold that runs here with these settings."""
    from stream_mtl.composition import choose_device
    from stream_mtl.environment import environment

    return environment(choose_device(config.device).type, config.threads, config.source.ranks)


def context_of(config: Config, record: LedgerRecord, instance: str) -> Context:
    """For whoever folds on from `record`, or asks whether it could, and commits nothing."""
    from stream_mtl.environment import code_fingerprint

    return Context(
        app=config.app,
        lineage=record.lineage,
        instance=instance,
        topic_ids=dict(record.topic_ids),
        config_hash=fold_hash(config),
        code=code_fingerprint(),
        environment=environment_of(config),
    )


def begins_by_itself(config: Config, last: LedgerRecord, ours: Context) -> bool:
    """Whether a start begins a new lineage without being told to: the machine is another, and the shop allows it."""
    return config.other_environment == "new_lineage" and moved(last, ours)
