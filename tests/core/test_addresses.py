"""What may be kept out: read strictly, and never what must stay reachable."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paramedic.core.addresses import (
    Bounds,
    Protected,
    check,
    first_overlap,
    in_chunks,
    merged,
    parse_list,
    parse_network,
)

NETWORKS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).flatmap(
    lambda address: st.integers(0, address.max_prefixlen).map(lambda n: ip_network((address, n), strict=False))
)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("203.0.113.7", "203.0.113.7/32"),
        ("203.0.113.0/24", "203.0.113.0/24"),
        ("2001:DB8::1", "2001:db8::1/128"),
        ("2001:db8:0:0::/64", "2001:db8::/64"),
    ],
)
def test_reads_addresses_and_cidrs(text: str, read: str) -> None:
    assert str(parse_network(text)) == read


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("203.0.113.256", "neither an IP address nor a CIDR"),
        ("203.0.113", "neither"),
        ("203.0.113.7/24", "it has bits of a host set, write 203.0.113.0/24"),
        ("2001:db8::1/64", "write 2001:db8::/64"),
        ("010.0.0.1", "neither"),
        ("0x7f.1", "neither"),
        ("203.0.113.7/255.255.255.0.0", "neither"),
        ("fe80::1%25eth0", "is no address"),
        ("１.2.3.4", "is no address"),
        ("1.2.3.4\x00", "neither"),
        ("example.com", "neither"),
        ("x" * 1000, "is no address"),
        ("", "neither"),
    ],
)
def test_refuses_what_is_no_address(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as refusal:
        parse_network(text)
    assert str(refusal.value).isascii()
    assert len(str(refusal.value)) < 200


def test_a_list_is_separated_by_commas_or_blanks() -> None:
    found = parse_list(" 203.0.113.7,2001:db8::1;\n198.51.100.0/24\t", 10)
    assert [str(one) for one in found] == ["203.0.113.7/32", "2001:db8::1/128", "198.51.100.0/24"]


@pytest.mark.parametrize(
    ("text", "told"),
    [(" , ", "empty"), ("1.1.1.1 1.1.1.2", "2 addresses are more than 1"), ("1.1.1.1," * 2000, "longer than 8192")],
)
def test_a_list_that_is_none_or_too_long_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        parse_list(text, 1)


@pytest.mark.parametrize(
    ("network", "against"),
    [
        ("203.0.113.7", None),
        ("203.0.0.0/16", None),
        ("203.0.0.0/15", "too large: its prefix is shorter than /16"),
        ("2001:db8::/32", None),
        ("2001:db8::/31", "shorter than /32"),
        ("0.0.0.0/0", "too large"),
        ("::/0", "too large"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "private"),
        ("172.31.255.255", "private"),
        ("172.32.0.0", None),
        ("192.168.0.0/24", "private"),
        ("fd00::1", "private"),
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "reserved"),
        ("0.0.0.0", "no address of a host"),
        ("::", "no address of a host"),
        ("::ffff:203.0.113.7", "write it as IPv4"),
        ("64:ff9b::203.0.113.7", "write it as IPv4"),
    ],
)
def test_what_speaks_against_blocking(network: str, against: str | None) -> None:
    found = check(parse_network(network), Bounds())
    assert (against or "") in (found or "")
    assert (found is None) is (against is None)


def test_private_networks_only_when_asked_and_the_rest_never() -> None:
    asked = Bounds(ipv4=8, ipv6=16, private=True)
    assert check(parse_network("10.0.0.0/8"), asked) is None
    assert check(parse_network("fd00::/16"), asked) is None
    assert "loopback" in (check(parse_network("127.0.0.0/8"), asked) or "")
    assert "link-local" in (check(parse_network("fe80::/16"), asked) or "")


def test_any_shared_address_protects() -> None:
    protected = [Protected(ip_network("10.20.0.0/16"), "the VPC"), Protected(ip_network("2001:db8::/56"), "the office")]
    for network in ("10.20.3.4/32", "10.0.0.0/8", "10.20.0.0/16"):
        found = first_overlap(ip_network(network), protected)
        assert found is not None
        assert found.what == "the VPC"
    assert first_overlap(ip_network("10.21.0.0/16"), protected) is None
    assert first_overlap(ip_network("2001:db8:0:ff::/64"), protected) == protected[1]


def test_merges_neighbours_and_duplicates() -> None:
    networks = [parse_network(one) for one in ("2001:db8::1", "192.0.2.128/25", "192.0.2.0/25", "192.0.2.7", "1.1.1.1")]
    assert merged(networks, Bounds()) == ["1.1.1.1/32", "192.0.2.0/24", "2001:db8::1/128"]
    assert merged(reversed(networks), Bounds()) == merged(networks, Bounds())


def test_merges_nothing_into_what_would_be_too_large_to_be_blocked() -> None:
    v4 = [parse_network(f"20.{n}.0.0/16") for n in range(64)]
    v6 = [parse_network(f"2001:{n:x}::/33") for n in (0xDB8, 0xDB9)] + [parse_network("2001:db8:8000::/33")]
    found = merged([*v4, *v6], Bounds())
    assert found[:64] == [f"20.{n}.0.0/16" for n in range(64)]
    assert found[64:] == ["2001:db8::/32", "2001:db9::/33"]
    assert all(check(parse_network(one), Bounds()) is None for one in found)
    assert merged(v4, Bounds(ipv4=12)) == [f"20.{n}.0.0/12" for n in (0, 16, 32, 48)]


@given(st.lists(NETWORKS, max_size=12))
def test_merging_loses_and_adds_no_address(networks: list) -> None:
    kept = [ip_network(one) for one in merged(networks, Bounds())]
    for network in networks:
        mine = [one for one in kept if one.version == network.version]
        assert any(network.subnet_of(one) for one in mine)
    for one in kept:
        mine = [n for n in networks if n.version == one.version]
        assert sum(n.num_addresses for n in mine if n.subnet_of(one)) >= one.num_addresses


def test_chunks_hold_all_in_order() -> None:
    addresses = [f"{ip_address(n)}/32" for n in range(16777216, 16777228)]
    chunks = list(in_chunks(addresses, 5))
    assert [len(chunk) for chunk in chunks] == [5, 5, 2]
    assert [one for chunk in chunks for one in chunk] == addresses
