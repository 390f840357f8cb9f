"""`python -m schemas.generate [--check]`: the JSON Schema files of all records, from the wire models.

The files are committed, so that producers and subscribers need no Python. `--check` writes nothing and
ends with 1 when a file is not what the models say.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pydantic import BaseModel

from schemas import scores
from schemas.control import COMMANDS
from schemas.events import EVENTS

FOLDER = Path(__file__).parent / "json"
VERSION = 1

OUTPUTS: dict[str, type[BaseModel]] = {
    "ack": scores.Ack,
    **{f"dead_letter_{style}": headers for style, headers in scores.LETTERS.items()},
    "ledger": scores.LedgerRecord,
    "score_popular": scores.PopularScore,
    "score_query": scores.QueryScore,
    "score_text": scores.TextScore,
    "score_tombstone": scores.Tombstone,
    "score_user": scores.UserScore,
}
# By the stem of the file, for schema and example alike.
RECORDS: dict[str, type[BaseModel]] = {**EVENTS, **COMMANDS, **OUTPUTS}


def rendered(name: str) -> str:
    """The text of `json/<name>.v1.json`."""
    schema = RECORDS[name].model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"{name} v{VERSION}"
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def expected_files() -> dict[str, str]:
    return {f"{name}.v{VERSION}.json": rendered(name) for name in sorted(RECORDS)}


def differing(folder: Path) -> list[str]:
    """Names of files that are missing, stale, or of no record."""
    expected = expected_files()
    found = {path.name: path.read_text() for path in folder.glob("*.json")}
    return sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))


def write(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.json"):
        path.unlink()
    for name, text in expected_files().items():
        (folder / name).write_text(text)


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        stale = differing(FOLDER)
        for name in stale:
            print(f"{name} differs; run: python -m schemas.generate", file=sys.stderr)
        return 1 if stale else 0
    if arguments:
        print("usage: python -m schemas.generate [--check]", file=sys.stderr)
        return 64
    write(FOLDER)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
