"""Where an anonymous call comes from, behind the proxies that are trusted to say it."""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address, ip_network

from guardhouse.rules import NOWHERE, Address, Client
from guardhouse_services.config import PREFIX, CannotStart, Settings

client: ContextVar[Client] = ContextVar("client", default=NOWHERE)
"""Of the anonymous call that is being served."""

COUNTRY = re.compile(r"[A-Za-z]{2}")


class Proxies:
    """Networks, separated by commas, whose headers are believed. Of everybody else only the connection counts."""

    def __init__(self, networks: str = "", address_header: str = "", country_header: str = "") -> None:
        """Raises ValueError for what is no network."""
        self._networks = [ip_network(network.strip()) for network in networks.split(",") if network.strip()]
        self._address_header = address_header
        self._country_header = country_header

    @classmethod
    def of(cls, settings: Settings) -> "Proxies":
        """Raises CannotStart."""
        try:
            return cls(settings.trusted_proxies, settings.client_address_header, settings.client_country_header)
        except ValueError as error:
            raise CannotStart(f"{PREFIX}TRUSTED_PROXIES: {error}") from None

    def client(self, peer: str, metadata: Iterable[tuple[str, str | bytes]]) -> Client:
        """Who calls: of a proxy's connection whom it names last, before other proxies of ours, and where that is."""
        address = located(peer)
        if not self._trusts(address):
            return Client(address)
        headers = [(key, value) for key, value in metadata if isinstance(value, str)]
        named = [value for key, value in headers if key == self._address_header]
        country = next((value for key, value in headers if key == self._country_header), "")
        address = self._named(",".join(named), address)
        return Client(address, country.upper() if COUNTRY.fullmatch(country) else "")

    def _named(self, header: str, proxy: Address | None) -> Address | None:
        """Each proxy adds at the end whom it saw, so only what stands behind the last stranger is known to be true."""
        address = proxy
        for text in reversed(header.split(",") if header else []):
            address = _parsed(text.strip())
            if not self._trusts(address):
                break
        return address

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def located(peer: str) -> Address | None:
    """The address of a gRPC peer such as `ipv4:127.0.0.1:1234` or `ipv6:%5B::1%5D:1234`, if it has one."""
    host = peer.partition(":")[2].rpartition(":")[0]
    return _parsed(host.removeprefix("%5B").removesuffix("%5D").strip("[]"))


def _parsed(text: str) -> Address | None:
    try:
        # A zone (RFC 4007) is a machine's own name for a link.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
