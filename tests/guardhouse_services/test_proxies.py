"""Where a device is, behind proxies: only those that are trusted may say it (decision 12)."""

import pytest

from guardhouse.rules import NOWHERE, Client
from guardhouse_services.config import CannotStart, Settings
from guardhouse_services.proxies import Proxies

PROXIES = Proxies("10.0.0.0/8, 2001:db8::/32", "x-forwarded-for", "x-country")
PROXY, STRANGER = "ipv4:10.0.0.1:4321", "ipv4:192.0.2.7:4321"


@pytest.mark.parametrize(
    ("peer", "headers", "expected"),
    [
        (PROXY, [("x-forwarded-for", "198.51.100.7"), ("x-country", "de")], Client.of("198.51.100.7", "DE")),
        ("ipv6:%5B2001:db8::1%5D:1", [("x-forwarded-for", "198.51.100.7")], Client.of("198.51.100.7", "")),
        ("ipv4:10.0.0.1:1", [("x-forwarded-for", "::ffff:198.51.100.7")], Client.of("198.51.100.7", "")),
        # What the device wrote itself stands in front, and a proxy of ours that another one saw behind.
        (PROXY, [("x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.9.9.9")], Client.of("198.51.100.7", "")),
        (PROXY, [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "198.51.100.7")], Client.of("198.51.100.7", "")),
        (PROXY, [("x-forwarded-for", "198.51.100.7, nonsense")], NOWHERE),
        (PROXY, [("x-forwarded-for", "10.9.9.9")], Client.of("10.9.9.9", "")),
        (PROXY, [], Client.of("10.0.0.1", "")),
        (PROXY, [("x-country", "Germany"), ("x-forwarded-for-bin", b"1.1.1.1")], Client.of("10.0.0.1", "")),
        (STRANGER, [("x-forwarded-for", "198.51.100.7"), ("x-country", "de")], Client.of("192.0.2.7", "")),
        ("ipv6:%5B::ffff:192.0.2.7%5D:1", [("x-country", "de")], Client.of("192.0.2.7", "")),
        ("unix:/run/socket", [("x-forwarded-for", "198.51.100.7")], NOWHERE),
    ],
)
def test_only_a_trusted_proxy_says_where_a_device_is(
    peer: str, headers: list[tuple[str, str | bytes]], expected: Client
) -> None:
    assert PROXIES.client(peer, headers) == expected


def test_nobody_is_trusted_unless_it_is_set() -> None:
    proxies = Proxies.of(Settings())
    headers = [("x-forwarded-for", "198.51.100.7"), ("", "DE")]
    assert proxies.client("ipv4:127.0.0.1:1", headers) == Client.of("127.0.0.1", "")
    with pytest.raises(CannotStart, match="GUARDHOUSE_TRUSTED_PROXIES"):
        Proxies.of(Settings(trusted_proxies="10.0.0.1/8"))
