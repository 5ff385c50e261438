"""
Where an address of the internet leads: in, a host as a URL has it; out, whether all can go there.

What the service gives as a link may name our own machine or network, where others cannot ask and
nothing expects to be asked by them.
"""

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from socket import AF_UNSPEC, AddressFamily
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from pipeline.errors import AnswerUnusable

__all__ = ["Outside", "is_public", "leads"]

_TRANSLATED = IPv6Network("64:ff9b::/96")
"""Networks without IPv4 reach it so. Source: https://www.rfc-editor.org/rfc/rfc6052#section-2.1"""


class Outside(AbstractResolver):
    """Looks names up, and refuses addresses where others than the service's own users are not."""

    def __init__(self, base_url: str) -> None:
        self._resolver = aiohttp.DefaultResolver()
        self._host = urlsplit(base_url).hostname or ""
        self._is_inside: bool | None = None

    async def require(self, url: str) -> None:
        """
        Let an address pass whose host is a name, or leads outside.

        Raises:
            AnswerUnusable: it does not.
            aiohttp.InvalidURL: it is no address.
        """
        try:
            host = URL(url).raw_host or ""
        except ValueError as error:
            raise aiohttp.InvalidURL(url) from error
        address = leads(host)
        if address is not None:
            await self._check(host, address)

    async def resolve(
        self, host: str, port: int = 0, family: AddressFamily = AF_UNSPEC
    ) -> list[ResolveResult]:
        """What aiohttp connects to: checked after the look-up, so that no other answer counts."""
        found = await self._resolver.resolve(host, port, family)
        for each in found:
            await self._check(host, each["host"])
        return found

    async def _check(self, host: str, address: str) -> None:
        if not (is_public(address) or await self._service_is_inside()):
            raise AnswerUnusable(f"download: {host} is an address of this machine or its network")

    async def _service_is_inside(self) -> bool:
        """Whether the service is on this machine or network itself, and may point there."""
        if self._is_inside is None:
            address = leads(self._host)
            if address is None:
                found = await self._resolver.resolve(self._host, 0, AF_UNSPEC)
                self._is_inside = not all(is_public(each["host"]) for each in found)
            else:
                self._is_inside = not is_public(address)
        return self._is_inside

    async def close(self) -> None:
        """Let go of what looks names up."""
        await self._resolver.close()


def is_public(address: str) -> bool:
    """
    Whether an IP address leads out of this machine and its network, whatever it is wrapped in.

    Source: https://www.iana.org/assignments/iana-ipv4-special-registry, and that of IPv6.
    """
    found = ip_address(address)
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if found in _TRANSLATED or int(found) < 1 << 32:  # the latter once was a wrapping, too
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return found.is_global and not found.is_multicast


def leads(host: str) -> str | None:
    """
    The IP address that a host stands for by itself, None for a name that has to be looked up.

    Resolvers take a number, parts in octal or hex, and fewer than four of them, for an address.
    Source: https://pubs.opengroup.org/onlinepubs/9699919799/functions/inet_addr.html
    """
    if host.lower().rstrip(".").rpartition(".")[2] == "localhost":  # RFC 6761, section 6.3
        return "127.0.0.1"
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
    except (OSError, ValueError):
        return None
