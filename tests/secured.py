"""A real Kafka that asks who is there: SASL_SSL and SSL listeners, ACLs, certificates of a CA made for the test.

The plain listener of the launcher stays, for the test's own administration: who comes in by it is a super user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives import serialization

from stream_mtl.kafka.server import KafkaServer, free_ports
from stream_mtl.kafka.settings import quiet_logger

WORKER, PASSWORD = "worker", "wonderful-PASSWORD-of-the-worker"
KEY_PASSWORD = "wonderful-PASSWORD-of-the-key"
CERTIFIED = "certified"  # the principal of the client certificate
_SCRAM = "SCRAM-SHA-512"
_PROPERTIES = """
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},SASL_SSL://127.0.0.1:{sasl},SSL://127.0.0.1:{ssl}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SASL_SSL://localhost:{sasl},SSL://localhost:{ssl}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={ca}
listener.name.ssl.ssl.client.auth=required
ssl.principal.mapping.rules=RULE:^CN=([^,]+).*$/$1/,DEFAULT
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
"""


@dataclass(frozen=True, slots=True)
class Grant:
    """One operation on one resource, as `kafka-acls` would add it."""

    resource: str  # topic, group, transactional_id, cluster
    name: str
    operation: str


@dataclass(frozen=True, slots=True)
class SecuredKafka:
    """The running broker and the files of its clients."""

    server: KafkaServer
    sasl: str  # address of the SASL_SSL listener
    ssl: str  # of the listener that wants a client certificate
    ca: Path
    strange_ca: Path
    certificate: Path
    key: Path  # encrypted with KEY_PASSWORD
    admin: AdminClient  # a super user's

    def client(self, **more: Any) -> dict[str, Any]:
        """`kafka.client` of a worker that logs in with its password."""
        return {
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": _SCRAM,
            "sasl.username": WORKER,
            "sasl.password": PASSWORD,
            "ssl.ca.location": str(self.ca),
            **{name.replace("__", "."): value for name, value in more.items()},
        }

    def certified(self) -> dict[str, Any]:
        """`kafka.client` of a worker that shows a certificate."""
        return {
            "security.protocol": "SSL",
            "ssl.ca.location": str(self.ca),
            "ssl.certificate.location": str(self.certificate),
            "ssl.key.location": str(self.key),
            "ssl.key.password": KEY_PASSWORD,
        }

    def grant(self, grants: Iterable[Grant], principal: str = WORKER) -> None:
        bindings = [_binding(one, principal) for one in grants]
        for future in self.admin.create_acls(bindings).values():
            future.result()

    def take(self, grant: Grant, principal: str = WORKER) -> None:
        """Take one right away; the others stand all the time."""
        one = _binding(grant, principal)
        only = AclBindingFilter(
            one.restype, one.name, one.resource_pattern_type, one.principal, one.host,
            one.operation, one.permission_type,
        )  # fmt: skip
        for future in self.admin.delete_acls([only]).values():
            assert len(future.result()) == 1

    def revoke(self, principal: str = WORKER) -> None:
        """Take every right of a principal away."""
        everything = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, f"User:{principal}", None,
            AclOperation.ANY, AclPermissionType.ANY,
        )  # fmt: skip
        for future in self.admin.delete_acls([everything]).values():
            future.result()


def _binding(grant: Grant, principal: str) -> AclBinding:
    kind = {"cluster": "BROKER"}.get(grant.resource, grant.resource.upper())
    return AclBinding(
        ResourceType[kind], grant.name, ResourcePatternType.LITERAL, f"User:{principal}", "*",
        AclOperation[grant.operation], AclPermissionType.ALLOW,
    )  # fmt: skip


def pkcs8(pem: bytes, password: str = "") -> bytes:
    """A private key in the one form that Java reads, encrypted where there is a password."""
    key = serialization.load_pem_private_key(pem, None)
    how = (
        serialization.BestAvailableEncryption(password.encode())
        if password
        else serialization.NoEncryption()
    )
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@contextmanager
def secured_kafka(folder: Path, jars: Path) -> Iterator[SecuredKafka]:
    """Start it; the user WORKER exists and may do nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, stranger = trustme.CA(), trustme.CA()
    own = authority.issue_cert("localhost", key_type=trustme.KeyType.RSA)
    client = authority.issue_cert("client.invalid", common_name=CERTIFIED)
    keystore, ca, strange_ca = folder / "broker.pem", folder / "ca.pem", folder / "strange.pem"
    certificate, key = folder / "client.pem", folder / "client.key"
    chain = b"".join(blob.bytes() for blob in own.cert_chain_pems)
    keystore.write_bytes(pkcs8(own.private_key_pem.bytes()) + chain)
    ca.write_bytes(authority.cert_pem.bytes())
    strange_ca.write_bytes(stranger.cert_pem.bytes())
    certificate.write_bytes(b"".join(blob.bytes() for blob in client.cert_chain_pems))
    key.write_bytes(pkcs8(client.private_key_pem.bytes(), KEY_PASSWORD))
    sasl, ssl = free_ports(2)
    properties = _PROPERTIES.format(sasl=sasl, ssl=ssl, keystore=keystore, ca=ca)
    with KafkaServer(folder, jars=jars, properties=properties) as server:
        admin = AdminClient({"bootstrap.servers": server.bootstrap}, logger=quiet_logger())
        kafka = SecuredKafka(
            server, f"localhost:{sasl}", f"localhost:{ssl}", ca, strange_ca, certificate, key, admin
        )
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = UserScramCredentialUpsertion(WORKER, info, PASSWORD.encode())
        for future in admin.alter_user_scram_credentials([wanted]).values():
            future.result()
        yield kafka
