"""A real Apache Kafka on this machine, started from its Maven artifacts: one node, KRaft, no install.

Needs JDK 17 or newer, and Maven once to fetch the jars (54 MB). The server lives in one folder: settings,
data and log; a second start in the same folder finds its topics again, also after `kill`.
"""

from __future__ import annotations

import base64
import contextlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from importlib.resources import as_file, files
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from stream_mtl.errors import BrokerUnavailable, ConfigError
from stream_mtl.kafka.settings import quiet_logger

KAFKA_VERSION = "4.3.1"  # as in server_pom.xml
_JAVA_MIN = 17
_READY_S = 300.0  # after kill -9 recovery takes 12 s on a small machine
_STOP_S = 20.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},{listening}CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


def java_version() -> int | None:
    """Major version of the `java` on the path; None without one."""
    if shutil.which("java") is None:
        return None
    said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found.group(1)) if found else None


def require_java() -> None:
    """Raises ConfigError, with the remedy, when no usable Java is on the path."""
    version = java_version()
    if version is None or version < _JAVA_MIN:
        have = "none is on the path" if version is None else f"found {version}"
        raise ConfigError(
            f"a real Kafka needs Java {_JAVA_MIN} or newer, {have}; install a JDK (Debian: apt install"
            " openjdk-17-jre-headless) or give the address of your own broker with --bootstrap"
        )


def jars_in(folder: Path) -> bool:
    """Are the server's jars in this folder?"""
    return any(folder.glob(f"kafka_2.13-{KAFKA_VERSION}.jar"))


def fetch_jars(folder: Path) -> Path:
    """The folder with the server's jars, filled by Maven when it is not there yet.

    Maven runs as the user would run it, so a mirror in settings.xml is respected. The folder appears
    whole or not at all.
    """
    if jars_in(folder):
        return folder
    require_java()
    if shutil.which("mvn") is None:
        raise ConfigError(
            f"no Kafka jars in {folder} and no Maven to fetch them; install it (Debian: apt install"
            " maven) or give the address of your own broker with --bootstrap"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch,
        as_file(files("stream_mtl.kafka") / "server_pom.xml") as pom,
    ):
        options = ["-DincludeScope=runtime", "-DoutputDirectory=libs"]
        shutil.copy(pom, Path(scratch) / "pom.xml")
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", "pom.xml", "dependency:copy-dependencies", *options],
            cwd=scratch,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigError(
                f"Maven could not fetch Kafka {KAFKA_VERSION} (exit {done.returncode}): "
                f"{(done.stdout + done.stderr).strip()[-800:]}"
            )
        if not jars_in(folder):
            # Two first starts at once: the other one's copy is as good.
            with contextlib.suppress(OSError):
                (Path(scratch) / "libs").rename(folder)
    return folder


def free_ports(count: int) -> list[int]:
    """Ports free at this moment, all different (held open together while they are picked)."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _cluster_id() -> str:
    """Kafka's form of a UUID: 22 characters of URL-safe base64, not beginning with a dash."""
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):
            return text


class KafkaServer:
    """One broker process. `with KafkaServer(folder, jars=jars) as server: ... server.bootstrap`.

    Port 0 picks a free one, kept over restarts of this object. `properties` are further lines of
    server.properties; one of them that names a key of ours wins. No process is left behind: when ours
    dies, however, a guard ends the broker.

    With `advertise`, the port of a proxy, it listens on a second port too (`behind`), to which the proxy should
    lead; who comes that way is told the proxy's port as the broker's address.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        jars: Path,
        heap_mb: int = 512,
        properties: str = "",
        advertise: int = 0,
    ) -> None:
        self._folder = folder
        self._properties, self._advertise = properties, advertise
        self._jars = jars
        self._heap_mb = heap_mb
        spare, controller, self.behind = free_ports(3)
        self._port = port or spare
        self._controller = controller
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        return self._folder / "server.log"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start and wait until the broker answers an admin call; an open port is not enough."""
        if self._process is not None:
            return
        require_java()
        self._prepare()
        options = [
            "-Xms128m",
            f"-Xmx{self._heap_mb}m",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.logFile=System.out",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd HH:mm:ss.SSS",
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["java", *options, "-cp", f"{self._jars}/*", "kafka.Kafka", "server.properties"],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches us alone; we stop the broker in order
            )
        # The guard reads a pipe that only we hold: it ends when we do, and takes the broker along.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'cat >/dev/null; kill -9 "$1"', "guard", str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """End in order (SIGTERM); a broker that does not end is killed."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as a crash test does it; `start` recovers what was written."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> KafkaServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def _prepare(self) -> None:
        data = self._folder / "data"
        self._folder.mkdir(parents=True, exist_ok=True)
        ours = _PROPERTIES.format(
            port=self._port,
            controller=self._controller,
            data=data.resolve(),
            listening=f"PROXIED://127.0.0.1:{self.behind}," if self._advertise else "",
            advertised=f",PROXIED://127.0.0.1:{self._advertise}" if self._advertise else "",
        )
        more = self._properties.format(port=self._port, controller=self._controller)
        (self._folder / "server.properties").write_text(ours + more)
        if (data / "meta.properties").exists():
            return
        how = ["format", "--standalone", "-t", _cluster_id(), "-c", "server.properties"]
        done = subprocess.run(
            ["java", "-Xmx256m", "-cp", f"{self._jars}/*", "kafka.tools.StorageTool", *how],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BrokerUnavailable(
                f"Kafka could not format {data}: {(done.stdout + done.stderr).strip()[-800:]}"
            )

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=quiet_logger())
        deadline = time.monotonic() + _READY_S
        while time.monotonic() < deadline:
            code = self._process.poll()
            if code is not None:
                self._end(signal.SIGKILL)
                raise BrokerUnavailable(f"Kafka ended with {code} while starting; see {self.log}")
            with contextlib.suppress(KafkaException):
                admin.describe_cluster(request_timeout=2).result()
                return
            time.sleep(0.1)
        self._end(signal.SIGKILL)
        raise BrokerUnavailable(f"Kafka did not answer within {_READY_S:.0f} s; see {self.log}")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
