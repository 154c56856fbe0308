"""A few rtnetlink requests: bridges, veth pairs, addresses, routes.

One socket and some hundred microseconds a request, where each `ip` command costs a process; and nothing to install.
Source: rtnetlink(7), linux/if_link.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

__all__ = ["Netlink"]

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE = 1, 4, 0x300, 0x200, 0x400
NLA_F_NESTED = 0x8000
IFF_UP = 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 3, 10, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15


def _attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("HH", length, kind) + payload + b"\0" * (-length % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | NLA_F_NESTED, b"".join(parts))


def _name(name: str) -> bytes:
    return _attribute(IFLA_IFNAME, name.encode() + b"\0")


def _hardware(address: str) -> bytes:
    """A hardware address (locally administered) that belongs to an IPv4 address."""
    return _attribute(IFLA_ADDRESS, b"\x02\x50" + socket.inet_aton(address))


def _link(index: int = 0, *, up: bool = False) -> bytes:
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, index, IFF_UP if up else 0, IFF_UP if up else 0)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[length + (-length % 4) :]
    return found


class Netlink:
    """A socket to the kernel's routing tables, of the network namespace in which it is opened."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.bind((0, 0))
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._sequence += 1
        header = struct.pack("IHHII", 16 + len(payload), kind, flags | NLM_F_REQUEST, self._sequence, 0)
        self._socket.send(header + payload)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        while True:
            data = self._socket.recv(1 << 16)
            while len(data) >= 16:
                length, kind, _, sequence, _ = struct.unpack_from("IHHII", data)
                if sequence == self._sequence:
                    yield kind, data[16:length]
                data = data[length + (-length % 4) :]

    def _request(self, kind: int, flags: int, payload: bytes, what: str) -> None:
        self._send(kind, flags | NLM_F_ACK, payload)
        for answer, body in self._answers():
            if answer == NLMSG_ERROR:
                code = -struct.unpack_from("i", body)[0]
                if code:
                    raise OSError(code, f"{what}: {os.strerror(code)}")
                return

    def _dump(self, kind: int, payload: bytes) -> Iterator[bytes]:
        self._send(kind, NLM_F_DUMP, payload)
        for answer, body in self._answers():
            if answer == NLMSG_DONE:
                return
            if answer == NLMSG_ERROR:
                code = -struct.unpack_from("i", body)[0]
                raise OSError(code, f"netlink: {os.strerror(code)}")
            yield body

    def index(self, name: str) -> int:
        """The number of an interface; 0 if there is none."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            return 0

    def add_bridge(self, name: str, address: str, prefix: int) -> None:
        """A bridge that is up and has an address. One that is already there is brought to that state."""
        info = _nested(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, b"bridge"))
        if address:  # a bridge without one of its own takes its ports', which come and go
            info += _hardware(address)
        try:
            self._request(
                RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _link() + _name(name) + info, f"make the bridge {name}"
            )
        except FileExistsError:
            pass
        index = self.index(name)
        if address:
            self.add_address(index, address, prefix)
        self.set_up(index)

    def add_veth(self, name: str, bridge: str, peer: str, pid: int, address: str) -> None:
        """A cable from the bridge into the network namespace of ``pid``, where its end is called ``peer``.

        The end's hardware address derives from ``address``: when an address is given to another instance later, what
        its neighbours remember of it stays true, instead of sending their packets nowhere for half a minute."""
        namespace = _attribute(IFLA_NET_NS_PID, struct.pack("I", pid))
        inner = _nested(VETH_INFO_PEER, _link(), _name(peer), _hardware(address), namespace)
        info = _nested(IFLA_LINKINFO, _attribute(IFLA_INFO_KIND, b"veth"), _nested(IFLA_INFO_DATA, inner))
        master = _attribute(IFLA_MASTER, struct.pack("I", self.index(bridge)))
        try:
            self._request(
                RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _link(up=True) + _name(name) + master + info, f"make {name}"
            )
        except FileExistsError:  # the cable of this instance's previous life, whose namespace is still being cleaned up
            self.delete(name)
            self._request(
                RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _link(up=True) + _name(name) + master + info, f"make {name}"
            )

    def set_up(self, index: int) -> None:
        """Bring an interface up."""
        self._request(RTM_NEWLINK, 0, _link(index, up=True), f"bring interface {index} up")

    def add_address(self, index: int, address: str, prefix: int) -> None:
        """Give an interface an address; having it already is fine."""
        raw = socket.inet_aton(address)
        payload = struct.pack("BBBBI", socket.AF_INET, prefix, 0, 0, index)
        payload += _attribute(IFA_LOCAL, raw) + _attribute(IFA_ADDRESS, raw)
        try:
            self._request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload, f"give {address}")
        except FileExistsError:
            pass

    def add_default_route(self, gateway: str) -> None:
        """Send what is not local to the gateway."""
        payload = struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, 254, 3, 0, 1, 0)
        payload += _attribute(RTA_GATEWAY, socket.inet_aton(gateway))
        self._request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, payload, f"route by {gateway}")

    def delete(self, name: str) -> None:
        """Remove an interface; none is fine."""
        try:
            self._request(RTM_DELLINK, 0, _link() + _name(name), f"remove {name}")
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise

    def addresses(self, interface: str = "") -> list[tuple[str, int]]:
        """The (address, prefix length) pairs of one interface, or of all."""
        wanted = self.index(interface) if interface else 0
        found = []
        for body in self._dump(RTM_GETADDR, struct.pack("BBBBI", socket.AF_INET, 0, 0, 0, 0)):
            family, prefix, _, _, index = struct.unpack_from("BBBBI", body)
            attributes = _attributes(body[8:])
            raw = attributes.get(IFA_LOCAL, attributes.get(IFA_ADDRESS))
            if family == socket.AF_INET and raw and (not interface or index == wanted):
                found.append((socket.inet_ntoa(raw), prefix))
        return found

    def routes(self) -> list[tuple[str, int]]:
        """The (network, prefix length) pairs of the routing tables, less the default."""
        found = []
        for body in self._dump(RTM_GETROUTE, struct.pack("BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            family, prefix = struct.unpack_from("BB", body)
            raw = _attributes(body[12:]).get(RTA_DST)
            if family == socket.AF_INET and raw and prefix:
                found.append((socket.inet_ntoa(raw), prefix))
        return found
