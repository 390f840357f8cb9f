"""The first contact with a broker: who it is, or why it does not let us in.

librdkafka tries a refused login again and again and reports a time-out, as if the broker were away. Here what it
said meanwhile is kept, so that a wrong password ends the wait and is told as what it is.
"""

from __future__ import annotations

import re
import socket
import ssl
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import ClusterMetadata

from stream_mtl.config import Config
from stream_mtl.errors import ConfigError, StreamMtlError
from stream_mtl.kafka.faults import CALL_S, error_of, explain
from stream_mtl.kafka.settings import Settings, client_settings, open_admin

_TRY_S = 1.0  # the first time, between two looks at what the client said; twice as long after every try in vain
_REFUSED = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)
# In an error of authentication: what no broker has said. The second is of a token service that is away.
_NOT_REFUSED = ("Disconnected", "Failed to acquire")
_PROBE_S = 3.0


def connect(
    config: Config, doing: str = "listing topics", patience_s: float = CALL_S
) -> tuple[AdminClient, ClusterMetadata]:
    """A client that has an answer, and the answer.

    Raises ConfigError when the broker refuses the login or one side does not trust the other's certificate,
    BrokerUnavailable when nobody answers within the patience.
    """
    said: list[KafkaError] = []
    settings = client_settings(config)
    admin = open_admin({**settings, "error_cb": said.append})
    deadline, try_s = time.monotonic() + patience_s, _TRY_S
    while True:
        left_s = deadline - time.monotonic()
        try:
            return admin, admin.list_topics(timeout=max(0.1, min(try_s, left_s)))
        except KafkaException as error:
            admin.poll(0)  # brings what was said
            raise_refusal(said, settings, doing, config.kafka.bootstrap)
            if left_s <= try_s:
                raise _away(error_of(error), said, doing, config.kafka.bootstrap) from None
            try_s *= 2  # a far or busy broker may take longer to tell of all topics


def principal(config: Config) -> str:
    """How an ACL names this client, as far as the client can know."""
    settings = client_settings(config)
    protocol = str(settings.get("security.protocol", "plaintext")).lower()
    if protocol.startswith("sasl"):
        name = settings.get("sasl.username") or settings.get("sasl.kerberos.principal")
        return f"User:{name}" if name else "User:<name in this client's token>"
    if protocol == "ssl" and certificate_of(settings):
        return "User:<name that the broker reads from this client's certificate>"
    return "User:ANONYMOUS"


def certificate_of(settings: Settings) -> object:
    """What names the client's certificate; None without one."""
    names = ("ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location")
    return next((settings[name] for name in names if settings.get(name)), None)


def raise_refusal(said: list[KafkaError], settings: Settings, doing: str, bootstrap: str) -> None:
    """ConfigError when what the client said leaves nothing to wait for."""
    for error in said:
        detail = _detail(error)
        if error.code() in _REFUSED and not any(word in detail for word in _NOT_REFUSED):
            name = settings.get("sasl.username", "")
            raise ConfigError(
                f"{doing}: {bootstrap} refuses the login{f' of {name}' if name else ''}: {detail}; check sasl.mechanism,"
                " sasl.username and sasl.password (or sasl.password_file) in [kafka.client]"
            )
        if "verify failed" in detail:
            raise ConfigError(_untrusted(settings, doing, bootstrap))
        if " alert " in detail:
            have = certificate_of(settings)
            raise ConfigError(
                f"{doing}: {bootstrap} ended the TLS handshake ({detail}): "
                + (
                    f"it does not accept the certificate {have}; have it signed by a CA that the broker trusts"
                    if have
                    else "it wants a client certificate; set ssl.certificate.location and ssl.key.location in [kafka.client]"
                )
            )


def _away(error: KafkaError, said: list[KafkaError], doing: str, bootstrap: str) -> StreamMtlError:
    """Nobody answered. A listener of another protocol looks the same, so the client's last words are told."""
    cause = explain(error, doing, bootstrap)
    last = next((_detail(one) for one in reversed(said) if one.code() == KafkaError._TRANSPORT), "")
    hint = f" Last heard: {last}." if last else " Does security.protocol fit this listener?"
    return type(cause)(f"{cause}{hint}")


def _detail(error: Any) -> str:
    """The client's sentence without the address before it and the time after it."""
    text = re.sub(r"^\w+://\S+: ", "", error.str())
    return re.sub(r" \(after \d+ms in state \w+(, .*)?\)$", "", text)


def _untrusted(settings: Settings, doing: str, bootstrap: str) -> str:
    """librdkafka has one sentence for every fault of a certificate; Python's TLS tells which it is."""
    why = ""
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        why = why or _probe(host.strip("[]"), port, settings.get("ssl.ca.location"))
    start = f"{doing}: the certificate of {bootstrap} cannot be trusted"
    if "mismatch" in why:
        return (
            f"{start}: {why}; give kafka.bootstrap (and the broker's advertised.listeners) a name that the"
            " certificate has, or have a certificate made for this one"
        )
    have = settings.get("ssl.ca.location") or "the system's certificates"
    return (
        f"{start}{f': {why}' if why else ''}; set ssl.ca.location in [kafka.client] to the file of the CA that"
        f" signed it (now {have})"
    )


def _probe(host: str, port: str, ca: str | None) -> str:
    """What is wrong with the certificate there; "" when that cannot be said."""
    try:
        context = ssl.create_default_context(cafile=ca)
        with (
            socket.create_connection((host, int(port)), _PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return ""
    except ssl.SSLCertVerificationError as error:
        return str(error.verify_message)
    except (OSError, ValueError):
        return ""
