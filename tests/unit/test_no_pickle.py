"""What is shipped holds nothing that builds objects out of bytes, however it is written."""

from __future__ import annotations

import ast
import re
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "pandas",
}
CALLS = re.compile(
    r"^(torch\.(load|save|jit\.load|hub\..*|package\..*)|(np|numpy)\.(load|save|savez.*)|yaml\.(load|unsafe_load|full_load)"
    r"|eval|exec|compile|__import__|os\.(system|popen)|subprocess\.getoutput)$"
)  # fmt: skip
NAMED = re.compile(r"""(import_module|__import__|find_spec)\(\s*["'](\w+)""")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as setuptools would ship them: what `packages.find` and `package-data` of pyproject.toml name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    tops = [name.rstrip("*") for name in settings["packages"]["find"]["include"]]
    target = tmp_path_factory.mktemp("wheel") / "stream_mtl.whl"
    with zipfile.ZipFile(target, "w") as archive:
        for top in tops:
            for path in sorted((ROOT / top).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    archive.write(path, path.relative_to(ROOT))
    return target


def found(name: str, source: str) -> Iterator[str]:
    """Imports and calls of what is banned."""
    for node in ast.walk(ast.parse(source)):
        said: list[str] = []
        if isinstance(node, ast.Import):
            said = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            said = [(node.module or "").split(".")[0]]
            yield from (
                f"{name}: {node.module}.{alias.name}"
                for alias in node.names
                if CALLS.match(f"{node.module}.{alias.name}")
            )
        elif isinstance(node, ast.Call) and CALLS.match(called := ast.unparse(node.func)):
            yield f"{name}: {called}"
        yield from (f"{name}: import {one}" for one in said if one in MODULES)
    yield from (f"{name}: {hit[0]}" for hit in NAMED.finditer(source) if hit[2] in MODULES)


def test_the_package_holds_no_pickle(wheel: Path) -> None:
    """No import, no call, no file of that kind."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = {name: archive.read(name).decode() for name in names if name.endswith(".py")}
    assert len(sources) > 150
    kinds = {Path(name).suffix for name in names}
    assert kinds <= {".py", ".json", ".xml", ".md", ".typed"}, kinds
    assert [hit for name, source in sources.items() for hit in found(name, source)] == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(f)", "from torch import load",
     "import yaml\nyaml.load(x)", "import numpy as np\nnp.load(f)", "eval(x)", "import os\nos.system(x)",
     "importlib.import_module('pickle')", "from dill import loads", "import marshal as m"],
)  # fmt: skip
def test_the_search_finds(source: str) -> None:
    """A search that finds nothing where there is something would prove nothing."""
    assert list(found("x.py", source))


def test_the_linter_bans_them_too() -> None:
    """At the desk, before any test runs."""
    banned = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]  # fmt: skip
    wanted = {
        "pickle",
        "dill",
        "joblib",
        "marshal",
        "shelve",
        "torch.load",
        "torch.save",
        "numpy.load",
        "yaml.load",
    }
    assert wanted <= banned.keys()
