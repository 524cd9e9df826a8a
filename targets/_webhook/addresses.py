"""Which addresses may be called: those of the public internet, and what the settings allow besides.

A receiver's name can be made to mean anything, also this machine, its network, or the service that hands out the role's
credentials. So what counts is the address that a connection is made to, not what the name was when it was looked up.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

# IANA IPv4 Special-Purpose Address Registry: all that is not globally reachable, multicast and what is reserved.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
        *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
        *("224.0.0.0/4", "240.0.0.0/4"),
    )
)
# IANA IPv6 Global Unicast Address Space, and what its Special-Purpose Address Registry takes out of it.
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")
"""RFC 6052: the IPv4 address is in the last 32 bits."""

_OF_THIS_NETWORK = tuple(
    ip_network(text)
    for text in (
        *("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"),
        *("::1/128", "fc00::/7"),
    )
)
"""What a host that is allowed by its name may be, besides public: link-local addresses (169.254.169.254 hands out
credentials) have to be allowed themselves."""


class ForbiddenAddressError(Exception):
    """The receiver is at an address that is not to be called."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be called besides the public internet.

    Attributes:
        networks: These addresses.
        names: These hosts, in lower case.
    """

    networks: tuple[_Network, ...] = ()
    names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, words: Iterable[str]) -> Allowed:
        """Read addresses, networks in CIDR notation, and host names.

        Raises:
            ValueError: One is none of these.
        """
        networks: list[_Network] = []
        names: set[str] = set()
        for word in words:
            try:
                networks.append(ip_network(word.strip("[]")))
            except ValueError:
                if "/" in word or ":" in word or "*" in word or word.replace(".", "").isdigit():
                    raise ValueError(
                        f"{word!r} is no address, no network as 10.0.0.0/8 (without bits set after the prefix) and no "
                        "host name"
                    ) from None
                names.add(_plain(word))
        return cls(tuple(networks), frozenset(names))

    def check(self, host: str, addresses: Sequence[str], *, encrypted: bool) -> None:
        """See that every address of a host may be called; without encryption only what is allowed expressly.

        Raises:
            ForbiddenAddressError: One may not.
        """
        for text in addresses:
            address = ip_address(text)
            mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
            address = mapped or address
            if self._names_it(host, address) or (encrypted and is_public(address)):
                continue
            if is_public(address):
                raise ForbiddenAddressError(f"{host} ({address}) would be called without encryption")
            raise ForbiddenAddressError(f"{host} is at {address}, which is not on the public internet")

    def _names_it(self, host: str, address: _Address) -> bool:
        if any(address in network for network in self.networks):
            return True
        is_harmless = is_public(address) or any(address in network for network in _OF_THIS_NETWORK)
        return _plain(host) in self.names and is_harmless


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public internet, also where it only wraps one of IPv4."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    wrapped = address.ipv4_mapped or address.sixtofour
    if address in _NAT64:
        wrapped = IPv4Address(address.packed[-4:])
    if wrapped is not None:
        return is_public(wrapped)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)


def literal(host: str) -> str | None:
    """The address that a host is in itself, however it is written (``127.1``, ``0x7f000001``, ``2130706433``)."""
    try:
        return str(ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return None if any(character.isspace() for character in host) else socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return None


def look_up(host: str, port: int) -> list[tuple[int, Any]]:
    """The addresses of a host, as family and what a socket connects to. Raises OSError where it has none."""
    return [(family, address) for family, *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
