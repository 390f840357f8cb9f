"""A short dose of fuzzing; `python -m benchmarks.soak.fuzz` gives the long one.

Longer here too: pytest --hypothesis-profile=soak tests/unit/test_fuzz.py
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing import TARGETS, Target


@pytest.mark.parametrize("name", TARGETS)
@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_broken_input_has_a_promised_outcome(name: str, data: Any) -> None:
    """A value or the one error that is promised; never another exception."""
    target: Target = TARGETS[name]
    target.check(data.draw(target.strategy))
