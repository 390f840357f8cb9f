"""The table of rights, and who is meant by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stream_mtl.config import Config
from stream_mtl.kafka.reach import principal
from stream_mtl.kafka.rights import grant_line, rights
from stream_mtl.kafka.topics import plan

DOCS = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def of(client: dict[str, Any], **kafka: Any) -> Config:
    return Config.model_validate({"kafka": {"bootstrap": "h:1", "client": client, **kafka}})


def test_every_topic_of_ours_is_in_the_table_once_for_each_operation() -> None:
    """A topic that is planned and not in the table would be met by a refusal in the middle of a run."""
    table = rights(Config())
    assert {one.name for one in table if one.resource == "topic"} == set(plan(Config()))
    assert len({str(one) for one in table}) == len(table)


def test_no_transactional_id_without_transactions() -> None:
    resources = {one.resource for one in rights(of({}, delivery="at_least_once"))}
    assert resources == {"topic", "group"}


@pytest.mark.parametrize(
    "client, name",
    [
        ({}, "User:ANONYMOUS"),
        ({"security.protocol": "SASL_SSL", "sasl.username": "w"}, "User:w"),
        ({"security.protocol": "sasl_plaintext", "sasl.username": "w"}, "User:w"),
        ({"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"}, "User:<name in this client's token>"),
        ({"security.protocol": "SSL"}, "User:ANONYMOUS"),
        ({"security.protocol": "SSL", "ssl.certificate.location": "/c"}, "User:<name that the broker reads from this client's certificate>"),
    ],
)  # fmt: skip
def test_the_principal_is_what_the_client_can_know(client: dict[str, Any], name: str) -> None:
    assert principal(of(client)) == name


def test_the_grant_names_resource_operation_and_principal() -> None:
    last = rights(Config(app="a"))[-1]
    line = grant_line(last, "User:w", "h:1")
    assert '--allow-principal "User:w" --operation Write --transactional-id stream-mtl.a' in line


def test_the_documented_table_is_the_table() -> None:
    """Name and operation of each right stand in one row of docs/security.md."""
    rows = re.findall(r"^\| (topic|group|transactional id) \|(.*)\|(.*)\|.*\|$", DOCS, re.M)
    for one in rights(Config.model_construct(**{**dict(Config()), "app": "<app>"})):
        resource = one.resource.replace("-", " ")
        told = [ops for kind, name, ops in rows if kind == resource and f"`{one.name}`" in name]
        assert any(one.operation in ops for ops in told), one
    assert len(rows) == len(
        {
            (one.resource, one.name)
            for one in rights(Config.model_construct(**{**dict(Config()), "app": "<app>"}))
        }
    )
