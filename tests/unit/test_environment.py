"""Two machines are the same environment when their sums are the same bits, whatever they are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stream_mtl.environment import arithmetic, environment, unlike

ROOT = Path(__file__).parents[2]
FOLDED = """
import json
from tests.golden.make import FOLDER, folded_again
from stream_mtl.environment import environment
from stream_mtl.ledger import FOLD_VERSION
found = folded_again(FOLDER / f"fold-{FOLD_VERSION}")
print(json.dumps({"state": found["state"], "environment": environment("cpu", 1)}))
"""


def elsewhere(**variables: str) -> dict[str, Any]:
    """The same events folded by a process with these variables, and what it says of where it runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MKL_")}
    done = subprocess.run(
        [sys.executable, "-c", FOLDED],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        check=True,
        cwd=ROOT,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def here() -> dict[str, Any]:
    return elsewhere()


def test_two_processes_of_one_kind_are_one_environment(here: dict[str, Any]) -> None:
    again = elsewhere()
    assert again == here
    assert unlike(again["environment"], here["environment"]) == []


@pytest.mark.parametrize(
    "variables",
    [{"MKL_CBWR": "COMPATIBLE"}, {"MKL_CBWR": "AVX2"}, {"MKL_CBWR": "AVX512,STRICT"}],
    ids=lambda variables: variables["MKL_CBWR"],
)
def test_kernels_with_other_bits_are_another_environment(
    here: dict[str, Any], variables: dict[str, str]
) -> None:
    """What another vendor's processor does to a fold, on this one. The naive way, the instruction set's name, sees none of it."""
    other = elsewhere(**variables)
    if other["state"] == here["state"]:
        pytest.skip("this processor's kernels are the same either way")
    named = {key: value for key, value in other["environment"].items() if key != "arithmetic"}
    assert unlike(named, here["environment"]) == []
    (found,) = unlike(other["environment"], here["environment"])
    assert found.startswith("environment arithmetic is ")


def test_threads_make_another_environment_and_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    assert unlike(environment("cpu", before + 1), environment("cpu", before))
    assert torch.get_num_threads() == before


def test_the_result_hangs_on_nothing_that_the_process_did_before() -> None:
    first = arithmetic(1)
    arithmetic.cache_clear()
    torch.rand(1_001).sum()
    with torch.no_grad():
        assert arithmetic(1) == first


def test_a_difference_names_both_processors() -> None:
    ours = {"arithmetic": "a", "processor": "GenuineIntel 6 207", "torch": "2"}
    theirs = {"arithmetic": "b", "processor": "AuthenticAMD 25 17", "torch": "2"}
    assert unlike(ours, theirs) == [
        "environment arithmetic is 'a' here, 'b' there",
        "the processor is GenuineIntel 6 207 here, AuthenticAMD 25 17 there",
    ]


def test_another_processor_with_the_same_bits_is_the_same_environment() -> None:
    one = {"arithmetic": "a", "processor": "GenuineIntel 6 85"}
    assert unlike(one, {**one, "processor": "GenuineIntel 6 106"}) == []


def test_what_an_older_release_did_not_write_is_no_difference() -> None:
    assert unlike({"arithmetic": "a", "torch": "2"}, {"torch": "2"}) == []
    assert unlike({"arithmetic": "a", "torch": "2"}, {"torch": "1"}) != []


SUMMED = """
import hashlib, sys
import numpy as np
from stream_mtl import Config, build
if "limited" in sys.argv:
    build(Config(), "60000001")
a_ND, b_ND = np.random.default_rng(0).random((2, 3_000, 384), dtype=np.float32)
print(hashlib.sha256(a_ND.T @ b_ND).hexdigest())
"""


def test_the_number_of_cores_does_not_change_a_sum() -> None:
    """numpy's library takes as many threads as there are cores, and cuts long sums up by them: `threads` limits it too."""

    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def summed(cores: int, *arguments: str) -> bytes:
        return subprocess.run(
            [sys.executable, "-c", SUMMED, *arguments],
            env={**inherited, "OPENBLAS_NUM_THREADS": str(cores), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
        ).stdout

    if summed(1) == summed(2):
        pytest.skip("one core, or a library that sums alike")
    assert summed(1, "limited") == summed(2, "limited") == summed(1)
