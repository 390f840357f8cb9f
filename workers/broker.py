"""Where the jars of the real broker are kept between runs."""

from __future__ import annotations

import os
from pathlib import Path


def jars_folder() -> Path:
    """STREAM_MTL_KAFKA_JARS, else in the user's cache folder, named after the version."""
    from stream_mtl.kafka.server import KAFKA_VERSION

    if given := os.environ.get("STREAM_MTL_KAFKA_JARS"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "stream-mtl" / f"kafka-{KAFKA_VERSION}"
