"""`broker up`: a real Apache Kafka on this machine, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from workers import output
from workers.options import Call, verb

_LOOK_S = 1.0  # between two looks at whether Kafka still runs


@click.group()
def broker() -> None:
    """A real local Apache Kafka, from its Maven artifacts."""


@broker.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), default=9092, show_default=True, help="0 picks one."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("kafka"),
    show_default=True,
    help="Settings, data and log; a second start there finds its topics again.",
)
@verb()
def up(call: Call, port: int, folder: Path) -> None:
    """Start Kafka, print its address, and stop it in order on Ctrl-C or SIGTERM.

    Needs a JDK of 17 or newer, and Maven for the first start, which fetches 54 MB.
    """
    from stream_mtl.errors import BrokerUnavailable
    from stream_mtl.kafka.server import KAFKA_VERSION, KafkaServer, fetch_jars
    from workers.broker import jars_folder
    from workers.stop import Stop

    _need_free(port)
    with Stop() as stop:
        output.note(f"Apache Kafka {KAFKA_VERSION}: looking for its jars in {jars_folder()}")
        with KafkaServer(folder, port, jars=fetch_jars(jars_folder())) as server:
            call.result({"bootstrap": server.bootstrap, "dir": str(folder)}, [server.bootstrap])
            output.note(f"up; data and log in {folder}. Ctrl-C stops it.")
            while not stop.wait(_LOOK_S):
                if not server.alive:
                    raise BrokerUnavailable(f"Kafka has ended by itself; see {server.log}")
            output.note("stopping")


def _need_free(port: int) -> None:
    """Another broker there would answer in the place of ours."""
    import socket

    from stream_mtl.errors import ConfigError

    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} is taken ({error.strerror}): stop what listens there, or choose another with --port"
            ) from None
