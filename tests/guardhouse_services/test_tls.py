"""The names that certificates of the local CA are for."""

import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from cryptography import x509

from guardhouse.durations import DAY
from guardhouse_services import tls
from guardhouse_services.config import SERVICES, Settings
from guardhouse_services.run import prepare
from tests.clock import FakeClock

PUBLIC = ("gh.example.com", "192.0.2.7")


@contextmanager
def served(folder: Path, service: str) -> Iterator[Callable[[str], None]]:
    """A listener of the service; what it gives reaches it under a name. Raises SSLCertVerificationError."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", tls.public_credentials(folder, service))
    server.start()
    context = ssl.create_default_context(cafile=folder / "ca.crt")
    context.set_alpn_protocols(["h2"])

    def reach(name: str) -> None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            pass

    yield reach
    server.stop(None).wait()


def uris(folder: Path, service: str) -> list[str]:
    certificate = x509.load_pem_x509_certificate((folder / f"{service}.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


@pytest.mark.parametrize("service", SERVICES)
def test_clients_elsewhere_reach_the_services_by_their_public_names(tmp_path: Path, service: str) -> None:
    """One that listens on every address has no name by itself."""
    settings = Settings(var=tmp_path, host="0.0.0.0", names="gh.example.com, 192.0.2.7,")
    prepare(settings, FakeClock())
    with served(settings.tls_path, service) as reach:
        for name in (*PUBLIC, "localhost"):
            reach(name)
        with pytest.raises(ssl.SSLCertVerificationError):
            reach("elsewhere.example.com")


def test_a_name_that_is_added_is_there_after_a_restart(tmp_path: Path) -> None:
    clock, folder = FakeClock(), tmp_path / "tls"
    prepare(Settings(var=tmp_path), clock)
    before = (folder / "session.crt").read_bytes()
    prepare(Settings(var=tmp_path, names="gh.example.com"), clock)
    assert (folder / "session.crt").read_bytes() != before
    with served(folder, "session") as reach:
        reach("gh.example.com")


def test_what_prepare_was_told_outlives_starts_and_renewals(tmp_path: Path) -> None:
    """Whoever starts or renews need not say the names again."""
    now, folder, settings = FakeClock().now(), tmp_path / "tls", Settings(var=tmp_path)
    tls.prepare(folder, settings.trust_domain, PUBLIC, now - 340 * DAY)
    made = (folder / "session.crt").read_bytes()
    tls.prepare(folder, settings.trust_domain, [settings.host], now - 300 * DAY)
    assert (folder / "session.crt").read_bytes() == made
    tls.prepare(folder, settings.trust_domain, ["10.0.0.1"], now)
    assert (folder / "session.crt").read_bytes() != made
    with served(folder, "session") as reach:
        for name in (*PUBLIC, "10.0.0.1"):
            reach(name)


def test_a_service_is_itself_in_one_trust_domain(tmp_path: Path) -> None:
    """I-29: of another one nothing is kept, whatever names are."""
    prepare(Settings(var=tmp_path), FakeClock(), PUBLIC)
    prepare(Settings(var=tmp_path, trust_domain="other.test"), FakeClock())
    assert uris(tmp_path / "tls", "ipam") == ["spiffe://other.test/ipam"]
    with served(tmp_path / "tls", "ipam") as reach:
        reach("gh.example.com")
