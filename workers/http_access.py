"""Who may ask the metrics endpoint, and over what: TLS, client certificates, names and passwords.

A line of the password file is `user:scrypt$<n>$<r>$<p>$<salt>$<hash>`; `python -m workers.http_access USER` makes
one of a password on stdin. Files are read once, at the start.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stream_mtl.config import Metrics as Section
from stream_mtl.errors import ConfigError

_N, _R, _P = (
    2**14,
    8,
    1,
)  # 16 MiB and 50 ms a guess (OWASP's smallest is 2**13, 8, 10 or the like of it)
_MAX_N, _MAX_R, _MAX_P = 2**16, 8, 4  # of a line that somebody else made
_MEMORY = 2**27
_GUESS_S = 0.2  # the worker's cores are for learning: guesses may not keep one of them busy


@dataclass(frozen=True, slots=True)
class _Hash:
    n: int
    r: int
    p: int
    salt: bytes
    hash: bytes

    def of(self, password: bytes) -> bytes:
        return hashlib.scrypt(
            password, salt=self.salt, n=self.n, r=self.r, p=self.p, maxmem=_MEMORY, dklen=32
        )

    def fits(self, password: bytes) -> bool:
        return hmac.compare_digest(self.of(password), self.hash)


class Passwords:
    """Names with hashes. Guessing is slow and one at a time; who has come in before is not hashed again."""

    def __init__(self, hashes: Mapping[str, _Hash]) -> None:
        self._hashes = dict(hashes)
        self._nobody = _hashed(secrets.token_bytes(16))  # so that an unknown name takes as long
        self._key = secrets.token_bytes(32)
        self._let_in: dict[str, bytes] = {}
        self._one_at_a_time = threading.Lock()

    def let_in(self, header: str) -> bool:
        """Is this the value of an Authorization header of somebody in the file?"""
        scheme, _, rest = header.partition(" ")
        try:
            name, colon, password = base64.b64decode(rest, validate=True).partition(b":")
            user = name.decode()
        except ValueError:  # no base64, or no text
            return False
        if scheme.lower() != "basic" or not colon:
            return False
        seal = hmac.digest(self._key, header.encode(), "sha256")
        if hmac.compare_digest(self._let_in.get(user, b""), seal):
            return True
        with self._one_at_a_time:
            fits = self._hashes.get(user, self._nobody).fits(password) and user in self._hashes
            if not fits:
                time.sleep(_GUESS_S)
        if fits:
            self._let_in[user] = seal
        return fits


@dataclass(frozen=True, slots=True)
class Access:
    """What an endpoint asks for; `Access()` asks for nothing."""

    tls: ssl.SSLContext | None = None
    passwords: Passwords | None = None


def access(config: Section) -> Access:
    """Raises ConfigError when a file is missing or is not what its key says."""
    passwords = None
    if config.basic_auth_file:
        passwords = Passwords(_read_passwords(config.basic_auth_file))
    return Access(_tls(config), passwords)


def exposure(config: Section) -> str:
    """A warning when others than this machine may ask without being asked who they are; "" otherwise."""
    host = config.address.rpartition(":")[0].strip("[]")
    guarded = config.basic_auth_file or config.client_ca_file
    if config.address == "off" or _is_loopback(host) or (guarded and config.tls_cert_file):
        return ""
    if guarded:
        return f"metrics.address {config.address}: passwords go in the clear; set metrics.tls_cert_file"
    return (
        f"metrics.address {config.address} is open to the network: anybody who reaches it reads all metrics;"
        " set metrics.basic_auth_file or metrics.client_ca_file (with tls_cert_file), or listen on 127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(config: Section) -> ssl.SSLContext | None:
    if not config.tls_cert_file:
        for key in ("tls_key_file", "client_ca_file"):
            if getattr(config, key):
                raise ConfigError(f"metrics.{key} needs metrics.tls_cert_file too")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An encrypted key would make OpenSSL ask on the terminal, of a worker that has none.
        context.load_cert_chain(config.tls_cert_file, config.tls_key_file or None, lambda: b"")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"metrics.tls_cert_file {config.tls_cert_file} with tls_key_file {config.tls_key_file or '(the same)'}:"
            f" {_why(error)}; expected a PEM certificate and its key without a password"
        ) from None
    if config.client_ca_file:
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(config.client_ca_file)
        except OSError as error:
            raise ConfigError(
                f"metrics.client_ca_file {config.client_ca_file}: {_why(error)}; expected a PEM file of the CA"
                " that signs clients' certificates"
            ) from None
    return context


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or "cannot be used"


def _read_passwords(file: str) -> dict[str, _Hash]:
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"metrics.basic_auth_file {file} cannot be read: {_why(error)}") from None
    found = dict(_parsed(lines, file))
    if not found:
        raise ConfigError(
            f"metrics.basic_auth_file {file} has no line; make one with `python -m workers.http_access USER`"
        )
    return found


def _parsed(lines: Iterable[str], file: str) -> Iterable[tuple[str, _Hash]]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        user, _, rest = line.strip().partition(":")
        try:
            kind, n, r, p, salt, digest = rest.split("$")
            made = _Hash(int(n), int(r), int(p), _bytes(salt), _bytes(digest))
            bounded = 1 < made.n <= _MAX_N and 0 < made.r <= _MAX_R and 0 < made.p <= _MAX_P
            if kind != "scrypt" or not user or not bounded or len(made.hash) != 32:
                raise ValueError
            made.of(b"")  # a power of two, and within the memory
        except ValueError:
            raise ConfigError(
                f"metrics.basic_auth_file {file}:{number}: expected user:scrypt$n$r$p$salt$hash;"
                " make the line with `python -m workers.http_access USER`"
            ) from None
        yield user, made


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _hashed(password: bytes) -> _Hash:
    salt = secrets.token_bytes(16)
    return _Hash(_N, _R, _P, salt, _Hash(_N, _R, _P, salt, b"").of(password))


def line_for(user: str, password: bytes) -> str:
    """A line of the password file. Raises ValueError for a name that cannot be one."""
    if not user or ":" in user or "\n" in user:
        raise ValueError(f"a user name without ':' was expected, found {user!r}")
    made = _hashed(password)
    salt, digest = (base64.b64encode(raw).decode() for raw in (made.salt, made.hash))
    return f"{user}:scrypt${made.n}${made.r}${made.p}${salt}${digest}"


if __name__ == "__main__":
    print(line_for(sys.argv[1], sys.stdin.buffer.readline().rstrip(b"\r\n")))
