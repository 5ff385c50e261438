"""Which addresses lead out of this machine and its network, however they are written."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.destinations import is_public, leads


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_the_internet_is_public(address: str) -> None:
    """Addresses of the internet lead there, also where IPv6 carries those of IPv4."""
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_what_is_wrapped_is_what_it_is(address: IPv4Address) -> None:
    """An IPv4 address leads where it does, however IPv6 wraps it."""
    number = int(address)
    wrapped = [
        IPv6Address((0xFFFF << 32) + number),
        IPv6Address((0x64FF9B << 96) + number),
        IPv6Address((0x2002 << 112) + (number << 80)),
    ]

    assert {is_public(str(each)) for each in wrapped} == {is_public(str(address))}


@given(st.ip_addresses(v=4), st.sampled_from("dxo"), st.integers(1, 4))
def test_numbers_are_addresses(address: IPv4Address, base: str, parts: int) -> None:
    """Decimal, octal or hex, in one to four parts: a number is the address that it spells."""
    number = int(address)
    spelt = [number >> 24 & 255, number >> 16 & 255, number >> 8 & 255, number & 255]
    last = number & (1 << 8 * (5 - parts)) - 1
    shape = {"d": "{}", "x": "0x{:x}", "o": "0{:o}"}[base]
    text = ".".join(shape.format(each) for each in [*spelt[: parts - 1], last])

    assert leads(text) == str(address)


@given(st.text())
def test_any_host_is_an_address_or_a_name(host: str) -> None:
    """Whatever a host is called, it leads to an address, or has to be looked up."""
    found = leads(host)

    assert found is None or ip_address(found)


@pytest.mark.parametrize("host", ["example.com", "a1.example", "7f000001.example", "", "1.2.3.4.5"])
def test_names_are_looked_up(host: str) -> None:
    """A name stands for no address by itself."""
    assert leads(host) is None
