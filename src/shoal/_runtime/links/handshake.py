"""What the two ends of a connection prove to each other, and why in this order.

1. *Preface and reply*, 80 bytes each, in the clear: magic, version, purpose, name of the cluster, a
   nonce. They have a fixed layout, are compared with constants, and decide nothing but whether to
   go on: a scanner, an HTTP client or another version is gone before it costs anything. The purpose
   comes first so that a process that holds the port can hand the connection to another
   process, which it could not do once TLS has begun. An attacker on the way can forge both; then
   step 3 fails, because both are part of what is proved.
2. *TLS 1.3*. The dialler accepts only a listener whose certificate the cluster's authority has
   signed; the listener demands the same, except of who joins and has none yet. From here on nobody
   on the way reads or changes anything.
3. *Proofs*, 32 bytes each, inside TLS: HMAC-SHA256 with the cluster's secret over the role and a
   transcript: preface, reply (so both nonces, the version, the purpose) and the hashes of both
   certificates. Compared in constant time. Only after that anything is parsed.

Why that is safe. *Replay*: each side's nonce is in what the other proves. *Reflection*: a proof
names its role, so what a dialler proved is of no use towards a dialler. *A man in the middle*
would have to end TLS himself, with a certificate of his own: the dialler refuses it, and even if he
had one (he is a member), the transcripts of the two sides differ in the listener's certificate, so
proofs cannot be passed on. (What one would bind to instead, the exported key of TLS, Python does
not show.) Addresses are not part of the transcript: behind NAT the two sides see different ones.
*Guessing*: the secret has 256 bits. A connection to oneself is seen at the first frame, which names
the node.

Who joins knows no certificate yet. The reply brings it the cluster's, with an HMAC of it and of
both nonces: who joins believes it if that is right (and if it is what the join line's fingerprint
says), before OpenSSL is given a byte of it, and then demands a listener that it has signed. Who
joins is proved by step 3 alone, gets a certificate, and dials again.

Dropped: proofs before TLS (nothing would tie them to the encrypted channel), and TLS with the
secret as pre-shared key (Python has it from 3.13 on).
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Mapping

from shoal._proto import links
from shoal._proto.links import Preface
from shoal._proto.messages import VERSION
from shoal._runtime.links.keys import Credentials, Secret, certificate_bytes, fingerprint_of

DIALLER = b"dialler"
LISTENER = b"listener"
_AUTHORITY = b"authority"
_LABEL = b"shoal link 1 "


class HandshakeError(ConnectionError):
    """The other end is not one to talk to: one line, with what to do where that is known."""


class RefusedError(HandshakeError):
    """That machine is there, and nobody listens."""


def transcript(preface: bytes, reply: bytes, listener: bytes, dialler: bytes) -> bytes:
    """Everything that a proof is about; certificates in DER, empty where there is none."""
    parts = (preface, reply, hashlib.sha256(listener).digest(), hashlib.sha256(dialler).digest())
    return b"".join(parts)


def prove(secret: Secret, role: bytes, about: bytes) -> bytes:
    """The proof of one side."""
    return hmac.new(secret.key, _LABEL + role + b"\0" + about, hashlib.sha256).digest()


def is_proof(secret: Secret, role: bytes, about: bytes, proof: bytes) -> bool:
    """Whether that side knows the secret and has seen the same connection."""
    return hmac.compare_digest(prove(secret, role, about), proof)


# ---- the clear beginning
def judge(preface: Preface, cluster: str, purposes: frozenset[int]) -> int:
    """The verdict of a listener."""
    if not links.can_speak(links.LINK_VERSION, preface.version):
        return links.WRONG_VERSION
    if preface.cluster != cluster:
        return links.WRONG_CLUSTER
    if preface.purpose not in purposes:
        return links.WRONG_PURPOSE
    return links.WELCOME


def refusal(verdict: int, theirs: Preface) -> str:
    """What the listener writes about a preface that it refused."""
    if verdict == links.WRONG_VERSION:
        return f"it speaks {_version_of(theirs)}, this node {_our_version()}"
    if verdict == links.WRONG_CLUSTER:
        return f"it means another cluster ({theirs.cluster or 'unnamed'})"
    if verdict == links.WRONG_PURPOSE:
        purpose = links.PURPOSES.get(theirs.purpose, str(theirs.purpose))
        return f"nobody serves connections for {purpose!r} here"
    return "too many connections of that source begin at once"


def check_reply(reply: bytes, address: str) -> None:
    """Raise ``HandshakeError`` unless a listener's reply says welcome."""
    theirs = links.read_preface(reply)
    if theirs is None:
        raise HandshakeError(
            f"who listens at {address} is not a Shoal cluster. What to do: check the port."
        )
    if theirs.purpose == links.WRONG_VERSION or not links.can_speak(
        links.LINK_VERSION, theirs.version
    ):
        raise HandshakeError(
            f"the cluster at {address} speaks {_version_of(theirs)}, this node {_our_version()}:"
            f" they are more than one minor version apart. What to do: install the version of"
            f" the cluster here."
        )
    if theirs.purpose == links.WRONG_CLUSTER:
        raise HandshakeError(
            f"the token is not that of the cluster at {address} (which is {theirs.cluster})."
            f" What to do: use the join line that this cluster printed."
        )
    if theirs.purpose == links.WRONG_PURPOSE:
        raise HandshakeError(
            f"{address} is a node of the cluster that does not serve this. What to do: use the"
            f" address in the join line, that of the head."
        )
    if theirs.purpose == links.BUSY:
        raise HandshakeError(f"{address} is busy with many new connections; trying again helps")
    if theirs.purpose != links.WELCOME:
        raise HandshakeError(f"{address} answered with an unknown verdict")


def _version_of(theirs: Preface) -> str:
    release = theirs.release or "an unknown release"
    return f"protocol {theirs.major}.{theirs.minor} (shoal {release})"


def _our_version() -> str:
    major, minor = links.LINK_VERSION
    return f"protocol {major}.{minor} (shoal {VERSION})"


# ---- the cluster's certificate, for who has none
def introduce(credentials: Credentials, preface: bytes, reply: bytes) -> bytes:
    """The authority's certificate for who joins, with the proof of it."""
    certificate = certificate_bytes(credentials.authority)
    about = preface + reply + certificate
    return links.new_authority_frame(certificate, prove(credentials.secret, _AUTHORITY, about))


def check_introduction(
    credentials: Credentials, preface: bytes, reply: bytes, frame: bytes, address: str
) -> bytes:
    """The authority's certificate (DER), believed.

    Raises:
        HandshakeError: it is not that of our cluster.
    """
    read = links.read_authority_frame(frame)
    if read is None:
        raise HandshakeError(f"{address} showed a certificate of an impossible size")
    certificate, proof = read
    if credentials.fingerprint and fingerprint_of(certificate) != credentials.fingerprint:
        raise HandshakeError(
            f"the certificate shown at {address} is not that of the cluster in the join line"
            f" (fingerprint sha256:{fingerprint_of(certificate)[:16]}..., expected"
            f" {credentials.fingerprint[:16]}...). What to do: check the address; if it is right,"
            f" somebody may be in between."
        )
    if not is_proof(credentials.secret, _AUTHORITY, preface + reply + certificate, proof):
        raise HandshakeError(
            f"the token is not that of the cluster at {address}. What to do: use the join line"
            f" that this cluster printed."
        )
    return certificate


# ---- TLS
class Contexts:
    """What TLS is told by one member: made once, because reading keys takes a millisecond."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._made: dict[str, ssl.SSLContext] = {}
        self._certificate = b""

    def certificate(self) -> bytes:
        """The member's own, in DER."""
        if not self._certificate:
            self._certificate = self.credentials.certificate()
        return self._certificate

    def for_listener(self, is_joining: bool) -> ssl.SSLContext:
        """For the side that was dialled."""
        kind = "joined" if is_joining else "listener"
        if kind not in self._made:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = 0  # no resumption: every connection proves itself
            _prepare(context, self.credentials, shows=True, demands=not is_joining)
            self._made[kind] = context
        return self._made[kind]

    def for_dialler(self) -> ssl.SSLContext:
        """For the side that dials."""
        if "dialler" not in self._made:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            _prepare(context, self.credentials, shows=True, demands=True)
            self._made["dialler"] = context
        return self._made["dialler"]

    def for_joiner(self, authority: bytes) -> ssl.SSLContext:
        """For who has no certificate yet, and has been shown that of the cluster (PEM)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _prepare(context, self.credentials, shows=False, demands=True)
        context.load_verify_locations(cadata=authority.decode("ascii"))
        return context


def _prepare(context: ssl.SSLContext, credentials: Credentials, shows: bool, demands: bool) -> None:
    context.check_hostname = False  # a node is known by its id, not by where it is
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED if demands else ssl.CERT_NONE
    if shows:
        context.load_cert_chain(credentials.certificate_path, credentials.key_path)
        context.load_verify_locations(cadata=credentials.authority.decode("ascii"))


def name_in(certificate: Mapping[str, object] | None) -> str:
    """The member's name in a verified certificate (``SSLSocket.getpeercert``)."""
    subject = (certificate or {}).get("subject", ())
    assert isinstance(subject, tuple)
    for attributes in subject:
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return ""
