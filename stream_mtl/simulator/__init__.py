"""A shop with a known truth: users with latent taste, a catalogue that turns over, what was shown, clicked, bought.

Read `scenario.py` for what can be simulated, `truth.py` for the probabilities, `shop.py` for how time passes.
"""

from __future__ import annotations

from stream_mtl.simulator.record import Simulated, as_line, truth_lines
from stream_mtl.simulator.scenario import SCENARIOS, Scenario, phase_at, season_phases
from stream_mtl.simulator.shop import simulate

__all__ = [
    "SCENARIOS",
    "Scenario",
    "Simulated",
    "as_line",
    "phase_at",
    "season_phases",
    "simulate",
    "truth_lines",
]
