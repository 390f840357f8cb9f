"""A rollback takes what was learned from an earlier state, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stream_mtl.composition import build
from stream_mtl.config import Config
from stream_mtl.errors import StateError
from stream_mtl.pipeline import Pipeline
from stream_mtl.rollback import is_learned
from stream_mtl.state import canonical_json
from tests.folds import small
from tests.unit.test_task_set import CART, command, decisions, kept, stream
