"""Certificates: the cluster's own, requests of nodes, and signing them.

The only file that needs ``cryptography``; imported where a cluster is made or joined, never where
it only runs. Keys are P-256: the fastest that every TLS 1.3 has (a handshake is 0.1 ms of work).

1. The authority can sign nodes and no further authorities (path length 0).
2. A certificate is given for a request that its own key has signed, to exactly the name asked for.
3. Validity is from 2000 to 9999 ("no well-defined end", RFC 5280): see ``keys``, rule 3.
"""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shoal._runtime.links.keys import CredentialsError

_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def new_key() -> bytes:
    """A private key, PEM."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def new_authority(cluster: str) -> tuple[bytes, bytes]:
    """(key, certificate) of a new cluster, PEM."""
    pem = new_key()
    key = _loaded(pem)
    name = _named(f"shoal cluster {cluster}")
    builder = _builder(name, name, key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_others=True), critical=True)
    certificate = builder.sign(key, hashes.SHA256())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


def new_request(key: bytes, name: str) -> bytes:
    """A request for a certificate, DER."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(_named(name))
    request = builder.sign(_loaded(key), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def sign(key: bytes, authority: bytes, request: bytes, name: str) -> bytes:
    """The certificate (PEM) of member ``name``.

    Raises:
        CredentialsError: ``request`` is no request of that member for a key of our kind.
    """
    try:
        asked = x509.load_der_x509_csr(request)
        public = asked.public_key()
        is_sound = asked.is_signature_valid and asked.subject == _named(name)
    except (ValueError, TypeError, InvalidSignature):
        raise CredentialsError("this is not a request for a certificate") from None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not is_sound:
        raise CredentialsError(f"this is not a request of {name!r} that its own key has signed")
    signer = _loaded(key)
    issuer = x509.load_pem_x509_certificate(authority)
    builder = _builder(asked.subject, issuer.subject, public)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
    builder = builder.add_extension(_usage(signs_others=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    builder = builder.add_extension(issuer_key, critical=False)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _loaded(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise CredentialsError("the key file does not hold a key of the kind that clusters use")
    return key


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    key_id = x509.SubjectKeyIdentifier.from_public_key(public)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(key_id, critical=False)
    )


def _usage(signs_others: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_others,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_others,
        crl_sign=signs_others,
        encipher_only=False,
        decipher_only=False,
    )
