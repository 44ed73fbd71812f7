"""A local certificate authority, so that the first minute is as secure as the last.

Every service has one certificate. Its names are `localhost`, the loopback addresses, the host that it listens on, those
that clients reach it by and `<service>.guardhouse.internal`, by which its peers check that they reached it; its SPIFFE
URI is who it is as a caller.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from guardhouse.durations import SECOND
from guardhouse_services.config import SERVICES

CA_DAYS = 3650
CERTIFICATE_DAYS = 365
# Made anew when less than this is left, so that a restart a month is enough.
RENEW_DAYS = 30


def internal_name(service: str) -> str:
    return f"{service}.guardhouse.internal"


def prepare(folder: Path, trust_domain: str, hosts: Sequence[str], now: int) -> None:
    """Makes the authority and the services' certificates, where they are missing, soon expire or lack a name.

    One that is made anew keeps the names and addresses that it had.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    at = datetime.datetime.fromtimestamp(now / SECOND, datetime.UTC)
    if not (folder / "ca.crt").exists():
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Guardhouse local CA")])
        _write(folder / "ca.key", _private_bytes(key))
        _write(folder / "ca.crt", _certificate(name, key, name, key, at, CA_DAYS, ca=True))
    issuer = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
    issuer_key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{folder}/ca.key is not a key of this CA")
    for service in SERVICES:
        path = folder / f"{service}.crt"
        names = _names(service, trust_domain, hosts)
        if path.exists():
            certificate = x509.load_pem_x509_certificate(path.read_bytes())
            if _serves(certificate, names, at):
                continue
            # Not the URI: who the service is, it is in one trust domain.
            kept = (name for name in _present(certificate) if not isinstance(name, x509.UniformResourceIdentifier))
            names += [name for name in kept if name not in names]
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Guardhouse {service}")])
        _write(folder / f"{service}.key", _private_bytes(key))
        _write(path, _certificate(name, key, issuer.subject, issuer_key, at, CERTIFICATE_DAYS, names=names))


def public_credentials(folder: Path, service: str) -> grpc.ServerCredentials:
    """Server TLS: callers prove themselves with a bearer value."""
    return grpc.ssl_server_credentials([_pair(folder, service)])


def service_credentials(folder: Path, service: str) -> grpc.ServerCredentials:
    """Mutual TLS: callers prove themselves with their certificate."""
    authority = (folder / "ca.crt").read_bytes()
    return grpc.ssl_server_credentials([_pair(folder, service)], authority, require_client_auth=True)


def peer_credentials(folder: Path, service: str) -> grpc.ChannelCredentials:
    """For calling another service's service listener as `service`."""
    key, certificate = _pair(folder, service)
    return grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes(), key, certificate)


def _pair(folder: Path, service: str) -> tuple[bytes, bytes]:
    return (folder / f"{service}.key").read_bytes(), (folder / f"{service}.crt").read_bytes()


def _names(service: str, trust_domain: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.DNSName(internal_name(service)),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
        x509.UniformResourceIdentifier(f"spiffe://{trust_domain}/{service}"),
    ]
    for host in hosts:
        try:
            bound: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            bound = x509.DNSName(host)
        if bound not in names:
            names.append(bound)
    return names


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    at: datetime.datetime,
    days: int,
    *,
    ca: bool = False,
    names: list[x509.GeneralName] | None = None,
) -> bytes:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A clock that lags a little must not refuse a fresh certificate.
        .not_valid_before(at - datetime.timedelta(minutes=5))
        .not_valid_after(at + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                key_cert_sign=ca,
                crl_sign=ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if names:
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(usages, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _serves(certificate: x509.Certificate, names: list[x509.GeneralName], at: datetime.datetime) -> bool:
    """Whether the certificate has all these names, and long enough to live."""
    is_complete = set(names) <= set(_present(certificate))
    return is_complete and (certificate.not_valid_after_utc - at).days >= RENEW_DAYS


def _present(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and readable by its owner only."""
    draft = path.with_suffix(path.suffix + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    draft.rename(path)
