"""The cluster's secret and certificates: as files, and as the text that people carry.

::

    <directory>                      mode 0700, ours
      id.secret         the token: <8 hex>.<43 base64url>; 32 random bytes behind a public name
      authority.pem     the cluster's certificate: it signs those of nodes
      authority.key     its key; only where the cluster was made
      fingerprint       what the join line said about authority.pem; only where one was used
      <name>.key        key of this node (its id in hex) or of the control store ("store")
      <name>.pem        its certificate, signed by the cluster's

    shoal-1 10.0.0.1:6380 5f0c1b2e.JnY0...Rk sha256:9a51...       the join line
    tag     address[,..]  token                fingerprint

Who has the token may join; who has only the fingerprint can tell this cluster from another one.

1. Every file is made exclusively with mode 0600; one that others may read, or that belongs to
   somebody else, is refused: its secret is no secret.
2. Neither the token nor a key is ever part of an argument, of the environment, of an error or of a
   ``repr``: ``Secret`` prints ``***``.
3. Certificates have no end that could be reached and no beginning that a wrong clock could precede:
   they live as long as the cluster, and a clock that jumps must not cut it in pieces.
4. ``cryptography`` is needed to make keys and to sign, not to use them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from types import ModuleType

SECRET_BYTES = 32
TOKEN_NAME = "id.secret"
AUTHORITY = "authority.pem"
AUTHORITY_KEY = "authority.key"
FINGERPRINT = "fingerprint"
STORE = "store"
"""The name of the control store among the nodes of its cluster."""
TAG = "shoal-1"
_ID_BYTES = 4
_PEM_BEGIN = "-----BEGIN CERTIFICATE-----"
_PEM_END = "-----END CERTIFICATE-----"
_FILE_BYTES_MOST = 64 << 10


class CredentialsError(ValueError):
    """A token, join line or file of keys cannot be used; the text says what to do."""


class Secret:
    """The token's two halves; prints ``***``."""

    __slots__ = ("id", "key")

    def __init__(self, name: str, key: bytes) -> None:
        self.id = name
        """Public: says which cluster a connection means."""
        self.key = key

    @classmethod
    def new(cls) -> Secret:
        """A secret nobody has had before."""
        return cls(secrets.token_hex(_ID_BYTES), secrets.token_bytes(SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> Secret:
        """Read the text of a token.

        Raises:
            CredentialsError: it is none.
        """
        name, _, rest = text.strip().partition(".")
        try:
            key = base64.b64decode(rest + "=", altchars=b"-_", validate=True)
            is_name = len(bytes.fromhex(name)) == _ID_BYTES and name == name.lower()
        except (ValueError, binascii.Error):
            key, is_name = b"", False
        if not is_name or len(key) != SECRET_BYTES:
            raise CredentialsError(
                "this is not a token of a cluster (8 hexadecimal digits, a dot, 43 letters)."
                " What to do: copy it whole from where the cluster was started"
                " (`shoal start --head` prints it in the join line)."
            )
        return cls(name, key)

    def text(self) -> str:
        """What ``parse`` reads; for the file and the join line only."""
        return f"{self.id}.{base64.urlsafe_b64encode(self.key).decode().rstrip('=')}"

    def __repr__(self) -> str:
        return f"Secret({self.id!r}, ***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self.id == other.id and secrets.compare_digest(self.key, other.key)

    def __hash__(self) -> int:
        return hash(self.id)

    def __reduce__(self) -> str:
        raise TypeError("a secret does not travel in a pickle")


@dataclass(frozen=True)
class JoinLine:
    """What a machine needs to join: where, the secret, and whom to expect there."""

    addresses: tuple[str, ...]
    secret: Secret
    fingerprint: str = ""
    """SHA-256 of the cluster's certificate in hex; empty: only the secret proves it."""

    @classmethod
    def parse(cls, text: str, address: str = "") -> JoinLine:
        """Read a join line, or a bare token if ``address`` says where to go.

        Raises:
            CredentialsError: it is neither.
        """
        words = text.split()
        if len(words) == 1 and address:
            return cls((address,), Secret.parse(words[0]))
        if len(words) != 4 or words[0] != TAG or not words[3].startswith("sha256:"):
            raise CredentialsError(
                "this is not a join line (shoal-1 ADDRESS TOKEN sha256:FINGERPRINT)."
                " What to do: copy the whole line that `shoal start --head` printed."
            )
        fingerprint = words[3].removeprefix("sha256:").lower()
        if len(fingerprint) != 64 or not set(fingerprint) <= set("0123456789abcdef"):
            raise CredentialsError(
                "the fingerprint in the join line is not 64 hexadecimal digits."
                " What to do: copy the whole line that `shoal start --head` printed."
            )
        addresses = (address,) if address else tuple(words[1].split(","))
        for one in addresses:
            split_address(one)
        return cls(addresses, Secret.parse(words[2]), fingerprint)

    def text(self) -> str:
        """The line, with the secret in it."""
        where = ",".join(self.addresses)
        return f"{TAG} {where} {self.secret.text()} sha256:{self.fingerprint}"


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of ``host:port``, ``[ip6]:port``.

    Raises:
        CredentialsError: it is no such address.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # an IPv6 address without brackets: where would the port begin?
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise CredentialsError(
            f"{address!r} is not an address. What to do: write HOST:PORT, as in 10.0.0.1:6380"
            f" or [fd00::1]:6380."
        )
    return host, int(port)


# ---- files
def make_directory(directory: str) -> None:
    """Make it, or check that nobody else can enter it.

    Raises:
        CredentialsError: it belongs to somebody else, or is open to others.
    """
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise CredentialsError(
            f"{directory} holds keys and must be a directory that only you can enter"
            f" (its owner is uid {found.st_uid}, its mode {stat.S_IMODE(found.st_mode):o})."
            f" What to do: chmod 700 {directory}, or choose another one."
        )


def write_private(path: str, data: bytes) -> None:
    """Make a file that only we can read; never over another one.

    Raises:
        FileExistsError: there is one.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(path, flags, 0o600)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o600)
        file.write(data)


def read_private(path: str) -> bytes:
    """Read a file that holds a secret.

    Raises:
        CredentialsError: others can read it too, it is not ours, or it is not there.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CredentialsError(
            f"{path} cannot be read: {error.strerror}. What to do: name the file with the token"
            f" (or the join line) of the cluster."
        ) from None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or mode & 0o077:
            raise CredentialsError(
                f"{path} holds a secret, and others can read or change it (owner uid"
                f" {found.st_uid}, mode {mode:o}). What to do: chmod 600 {path}, and make a new"
                f" cluster if somebody may have read it."
            )
        return file.read(_FILE_BYTES_MOST)


def _replace_private(path: str, data: bytes) -> None:
    fresh = f"{path}.{secrets.token_hex(4)}"
    write_private(fresh, data)
    os.replace(fresh, path)


def read_token_file(path: str, address: str = "") -> JoinLine:
    """What ``--token-file`` names: a file with a join line, or with a token beside an address.

    Raises:
        CredentialsError: it cannot be used.
    """
    return JoinLine.parse(read_private(path).decode("ascii", "replace"), address)


# ---- certificates
def certificate_bytes(pem: bytes) -> bytes:
    """The DER of a certificate in PEM."""
    text = pem.decode("ascii", "replace")
    body = text.partition(_PEM_BEGIN)[2].partition(_PEM_END)[0]
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except ValueError:
        data = b""
    if not data:
        raise CredentialsError("a certificate in PEM was expected and is not there")
    return data


def certificate_pem(data: bytes) -> bytes:
    """PEM of a certificate in DER."""
    text = base64.b64encode(data).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join([_PEM_BEGIN, *lines, _PEM_END, ""]).encode()


def fingerprint_of(certificate: bytes) -> str:
    """Of a certificate in DER."""
    return hashlib.sha256(certificate).hexdigest()


def _authority() -> ModuleType:
    try:
        from shoal._runtime.links import authority
    except ImportError:
        raise CredentialsError(
            "a cluster of several machines needs the package cryptography, which is not"
            " installed here. What to do: pip install 'shoal[cluster]'."
        ) from None
    return authority


def new_cluster(directory: str, address: str | tuple[str, ...]) -> JoinLine:
    """Make the secret and the certificate of a new cluster in ``directory``.

    Args:
        directory: Where its files go; made if it is not there.
        address: Where others can reach its control store, ``host:port``, or several of them.

    Raises:
        CredentialsError: ``cryptography`` is missing, or the directory is open to others.
        FileExistsError: there is a cluster in that directory.
    """
    addresses = (address,) if isinstance(address, str) else address
    for one in addresses:
        split_address(one)
    authority = _authority()
    make_directory(directory)
    secret = Secret.new()
    write_private(os.path.join(directory, TOKEN_NAME), secret.text().encode())
    key, certificate = authority.new_authority(secret.id)
    write_private(os.path.join(directory, AUTHORITY_KEY), key)
    write_private(os.path.join(directory, AUTHORITY), certificate)
    return JoinLine(addresses, secret, fingerprint_of(certificate_bytes(certificate)))


def join(directory: str, line: JoinLine) -> None:
    """Keep in ``directory`` what a join line says; certificates come with the first handshake.

    Raises:
        CredentialsError: the directory is open to others.
        FileExistsError: it is that of another cluster.
    """
    make_directory(directory)
    write_private(os.path.join(directory, TOKEN_NAME), line.secret.text().encode())
    if line.fingerprint:
        write_private(os.path.join(directory, FINGERPRINT), line.fingerprint.encode())


class Credentials:
    """What one member (a node, or the control store) has to show, and by what it knows others."""

    def __init__(self, directory: str, name: str) -> None:
        self.directory = directory
        self.name = name
        self.secret = Secret.parse(read_private(self._path(TOKEN_NAME)).decode("ascii", "replace"))
        self.authority = self._maybe(AUTHORITY)
        """The cluster's certificate (PEM); empty until the first handshake of who joins."""
        self.fingerprint = self._maybe(FINGERPRINT).decode("ascii", "replace").strip()
        """What it must be, if that is known."""
        if self.authority:
            found = fingerprint_of(certificate_bytes(self.authority))
            if self.fingerprint and found != self.fingerprint:
                raise CredentialsError(
                    f"{self._path(AUTHORITY)} is not the certificate that the join line names."
                    f" What to do: join again in an empty directory."
                )
            self.fingerprint = found

    def __repr__(self) -> str:
        return f"Credentials({self.directory!r}, {self.name!r}, ***)"

    def _path(self, name: str) -> str:
        return os.path.join(self.directory, name)

    def _maybe(self, name: str) -> bytes:
        return read_private(self._path(name)) if os.path.lexists(self._path(name)) else b""

    @property
    def key_path(self) -> str:
        """Of the member's own key."""
        return self._path(f"{self.name}.key")

    @property
    def certificate_path(self) -> str:
        """Of the member's own certificate."""
        return self._path(f"{self.name}.pem")

    @property
    def has_certificate(self) -> bool:
        """Whether it can show one."""
        return os.path.lexists(self.certificate_path)

    @property
    def is_authority(self) -> bool:
        """Whether certificates can be signed here."""
        return os.path.lexists(self._path(AUTHORITY_KEY))

    def certificate(self) -> bytes:
        """Its own certificate in DER."""
        return certificate_bytes(read_private(self.certificate_path))

    def new_request(self) -> bytes:
        """Make a key if there is none, and a request (DER) for its certificate.

        Raises:
            CredentialsError: ``cryptography`` is missing.
        """
        authority = _authority()
        if not os.path.lexists(self.key_path):
            write_private(self.key_path, authority.new_key())
        request: bytes = authority.new_request(read_private(self.key_path), self.name)
        return request

    def sign(self, request: bytes, name: str) -> bytes:
        """Return the certificate (PEM) of member ``name`` for its request.

        Raises:
            CredentialsError: this is no request of that member, or the key is not here.
        """
        authority = _authority()
        key = read_private(self._path(AUTHORITY_KEY))
        signed: bytes = authority.sign(key, self.authority, request, name)
        return signed

    def keep(self, certificate: bytes, authority: bytes) -> None:
        """Keep the certificate (PEM) that was granted, and the cluster's (DER)."""
        if not self.authority:
            self.authority = certificate_pem(authority)
            self.fingerprint = fingerprint_of(authority)
            _replace_private(self._path(AUTHORITY), self.authority)
        _replace_private(self.certificate_path, certificate)


def load(directory: str, name: str) -> Credentials:
    """The credentials of a member; made on the spot where the cluster was made.

    Args:
        directory: That of ``new_cluster`` or ``join``.
        name: The node's id in hex, or ``STORE``.

    Raises:
        CredentialsError: files are missing, open to others, or not of one cluster.
    """
    make_directory(directory)
    credentials = Credentials(directory, name)
    if credentials.is_authority and not credentials.has_certificate:
        certificate = credentials.sign(credentials.new_request(), name)
        credentials.keep(certificate, certificate_bytes(credentials.authority))
    return credentials
