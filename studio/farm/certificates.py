"""Who may join: the farm's own certificate authority, its certificates and invitations.

Both sides show a certificate. Only the host's is valid for servers, so no machine can pose as the
host. An invitation's certificate only allows its bearer to request one of their own, for a key that
never leaves their machine. All certificates expire, an invitation's first. Revoked ones are refused
in the handshake, before any data is read.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.errors import NeodragonError, reason_of
from studio.system.files import partial
from studio.system.paths import private

Role = Literal["host", "machine", "invitation"]
FORMAT = 1
LIMIT = 2**16  # bytes of an invitation
EARLY = timedelta(days=1)  # by which clocks may differ
YEARS = timedelta(days=3650)  # of the authority and the host
MACHINE = timedelta(days=365)


class FarmError(NeodragonError):
    """The farm cannot do what was asked of it."""


@dataclass(frozen=True)
class Invitation:
    """What brings a machine into the farm; address and port: of its host; ends: seconds since 1970.

    authority, certificate, key: in PEM.
    """

    address: str
    port: int
    ends: float
    authority: str
    certificate: str
    key: str

    def __str__(self) -> str:
        return json.dumps({"neodragon_farm": FORMAT, **asdict(self)}, indent=1) + "\n"


def read_invitation(path: Path) -> Invitation:
    """The invitation in a file; raises FarmError."""
    try:
        with path.open("rb") as stream:
            values = json.loads(stream.read(LIMIT))
        if values.pop("neodragon_farm") != FORMAT:
            raise ValueError("it is of another version")
        invitation = Invitation(**values)
        if not (isinstance(invitation.port, int) and isinstance(invitation.ends, int | float)):
            raise TypeError("its numbers are damaged")
        x509.load_pem_x509_certificate(invitation.certificate.encode())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise FarmError(
            "{path} is no invitation to a farm ({reason}); write one on the host with"
            " nds farm invite.",
            path=path,
            reason=reason_of(error),
        ) from error
    if invitation.ends < datetime.now().timestamp():
        raise FarmError("The invitation {path} has expired; ask for a new one.", path=path)
    return invitation


def first(error: Exception) -> str:
    """What an error says in a line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Authority:
    """The authority in a folder of the host's, made when absent; keys are this user's alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        private(folder)
        self.certificate_file = folder / "authority.pem"
        self.host_file = folder / "host.pem"  # certificate and key
        self.revoked_file = folder / "revoked.pem"
        self._listed = datetime.min.replace(tzinfo=UTC)  # the date of the last revocation list
        if not self.host_file.exists():
            self._create()
        self._key = _key((folder / "authority-key.pem").read_bytes())
        self.certificate = x509.load_pem_x509_certificate(self.certificate_file.read_bytes())

    def _create(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Neodragon farm")])
        identity = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            _dated(YEARS)
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(identity, critical=False)
            .sign(key, hashes.SHA256())
        )
        self._key, self.certificate = key, certificate
        write(self.folder / "authority-key.pem", pem_of(key))
        write(self.certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
        self.revoke(())
        own = ec.generate_private_key(ec.SECP256R1())
        signed = self.sign(own.public_key(), "host", "host", YEARS)
        write(self.host_file, signed.public_bytes(serialization.Encoding.PEM) + pem_of(own))

    def sign(
        self, key: ec.EllipticCurvePublicKey, name: str, role: Role, life: timedelta
    ) -> x509.Certificate:
        """A certificate for the owner of a key."""
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if role == "host" else None
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([purpose] if purpose else [])]
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return (
            _dated(life)
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=True)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def sign_request(self, request: str, name: str) -> x509.Certificate:
        """A machine's certificate for the key of its request in PEM; raises FarmError."""
        try:
            signed = x509.load_pem_x509_csr(request.encode())
            key = signed.public_key()
            if not (signed.is_signature_valid and isinstance(key, ec.EllipticCurvePublicKey)):
                raise InvalidSignature("it is not signed by its key")
        except (ValueError, InvalidSignature) as error:
            raise FarmError(
                "The machine's request for a certificate is damaged ({reason}); join again.",
                reason=first(error),
            ) from error
        return self.sign(key, name, "machine", MACHINE)

    def invite(
        self, address: str, port: int, life: timedelta
    ) -> tuple[Invitation, x509.Certificate]:
        """A new invitation, and its certificate."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self.sign(key.public_key(), "invitation", "invitation", life)
        invitation = Invitation(
            address=address,
            port=port,
            ends=certificate.not_valid_after_utc.timestamp(),
            authority=self.certificate_file.read_text("utf-8"),
            certificate=pem_text(certificate),
            key=pem_of(key).decode(),
        )
        return invitation, certificate

    def revoke(self, serials: Iterable[int]) -> None:
        """Let these certificates, and no others of those that are good, be refused.

        OpenSSL keeps every list it was given and reads the one of the latest second, so each is
        dated a second after the one before; the first lies an hour back, to leave room for that.
        """
        now = datetime.now(UTC)
        second = timedelta(seconds=1)
        self._listed = max(now - timedelta(hours=1), self._listed + second).replace(microsecond=0)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(self._listed)
            .next_update(now + YEARS)
            .add_extension(x509.CRLNumber(int(now.timestamp() * 1e6)), critical=False)
        )
        for serial in serials:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(one.build())
        signed = builder.sign(self._key, hashes.SHA256())
        write(self.revoked_file, signed.public_bytes(serialization.Encoding.PEM))

    def server_context(self) -> ssl.SSLContext:
        """What the host listens with."""
        context = _context(ssl.PROTOCOL_TLS_SERVER, self.certificate_file, self.host_file)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.revoked_file)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return context

    def client_context(self) -> ssl.SSLContext:
        """What the host speaks to itself with."""
        return client_context(self.certificate_file, self.host_file)


def client_context(authority: Path, own: Path) -> ssl.SSLContext:
    """What a machine speaks to the host with; own: certificate and key."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authority, own)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _context(protocol: int, authority: Path, own: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False  # addresses change; what counts is the authority and the use
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(own)
    return context


def request_for(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A request for a certificate, in PEM."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def new_key() -> ec.EllipticCurvePrivateKey:
    """A machine's own key."""
    return ec.generate_private_key(ec.SECP256R1())


def pem_text(certificate: x509.Certificate) -> str:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key in PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def write(path: Path, content: bytes) -> None:
    """Write a file at once that only this user may read; raises OSError."""
    part = partial(path)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    part.replace(path)


def _key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "made above"
    return key


def _dated(life: timedelta) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    return builder.not_valid_before(now - EARLY).not_valid_after(now + life)


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
