"""A small internet of network namespaces: public hosts, routers that masquerade, private hosts.

    with Network() as net:
        server = net.public("server", 20)                  # 203.0.113.20
        router = net.router("home", 1, "10.7.0.0/24")      # 203.0.113.1, masquerades 10.7.0.0/24
        phone = router.host("phone", 2)                    # 10.7.0.2
        with phone.entered():
            ...                       # sockets, threads and processes made here live in it

The namespaces have no names: the kernel drops them when the test's process ends, however it ends,
and runs side by side never meet.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from typing import Self

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
PUBLIC = ipaddress.IPv4Network("203.0.113.0/24")


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    for tool, package in (("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt install {package}"
    try:
        Namespace("trial").close()
    except OSError as error:
        return f"no network namespace without root (CAP_SYS_ADMIN): {error.strerror}"
    return ""


class Namespace:
    """One network namespace, held open by a file descriptor."""

    def __init__(self, name: str, ip: str = "") -> None:
        self.name = name
        self.ip = ip
        self._fd = _new_namespace()

    def close(self) -> None:
        os.close(self._fd)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread, and what it starts, is inside."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _setns(self._fd)
            yield
        finally:
            _setns(home)
            os.close(home)

    def run(self, *command: str) -> str:
        """A command inside; its output. An AssertionError when it fails."""
        with self.entered():
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{self.name}: {' '.join(command)}: {done.stderr}"
        return done.stdout

    def set(self, sysctl: str, value: int) -> None:
        """A sysctl of the namespace, such as `net.ipv4.ip_forward`."""
        self.run("sh", "-c", f"echo {value} > /proc/sys/{sysctl.replace('.', '/')}")

    def link(self, device: str, other: Namespace, other_device: str) -> None:
        """A cable between the two."""
        self.run(
            *("ip", "link", "add", device, "type", "veth", "peer", "name", other_device),
            *("netns", f"/proc/{os.getpid()}/fd/{other._fd}"),
        )
        for end, name in ((self, device), (other, other_device)):
            end.run("ip", "link", "set", name, "up")

    def address(self, device: str, ip: str, network: ipaddress.IPv4Network) -> None:
        self.run("ip", "address", "add", f"{ip}/{network.prefixlen}", "dev", device)


class Router(Namespace):
    """Masquerades everything behind it; nothing comes in that was not asked for or forwarded."""

    def __init__(self, name: str, ip: str, inside: ipaddress.IPv4Network) -> None:
        super().__init__(name, ip)
        self.inside = inside
        self._hosts: list[Namespace] = []

    def configure(self, *, random_ports: bool) -> None:
        """`random_ports` makes it a symmetric NAT: another port for each destination."""
        self.set("net.ipv4.ip_forward", 1)
        how = "masquerade fully-random" if random_ports else "masquerade"
        self.nft(
            "table ip nat {",
            "  chain forwards { type nat hook prerouting priority dstnat; }",
            "  chain masking {",
            f'    type nat hook postrouting priority srcnat; oifname "out" {how};',
            "  }",
            "}",
            "table ip filter {",
            "  chain through { type filter hook forward priority filter; }",
            # Without this, a packet that comes too early would take the port of its own answer.
            '  chain here { type filter hook input priority filter; iifname "out" drop; }',
            "}",
        )
        self.run("ip", "link", "add", "lan", "type", "bridge")
        self.run("ip", "link", "set", "lan", "up")
        self.address("lan", str(self.inside[1]), self.inside)

    def nft(self, *lines: str) -> None:
        self.run("nft", "\n".join(lines))

    def host(self, name: str, number: int) -> Namespace:
        """A host of the private network."""
        host = Namespace(name, str(self.inside[number]))
        self._hosts.append(host)
        host.run("ip", "link", "set", "lo", "up")
        self.link(f"to{number}", host, "eth0")
        self.run("ip", "link", "set", f"to{number}", "master", "lan")
        host.address("eth0", host.ip, self.inside)
        host.run("ip", "route", "add", "default", "via", str(self.inside[1]))
        return host

    def forward(self, ports: str, to: Namespace) -> None:
        """UDP that comes to these ports from outside goes to that host."""
        self.nft(f'add rule ip nat forwards iifname "out" udp dport {ports} dnat to {to.ip}')

    def only_through(self, server: Namespace) -> None:
        """A firewall that lets hosts talk to that server alone, and to nobody behind it."""
        self.nft(f"add rule ip filter through ip daddr {server.ip} accept")
        self.nft(f"add rule ip filter through ip saddr {server.ip} accept")
        self.nft("add rule ip filter through drop")

    def forget_silent_after(self, seconds: int) -> None:
        """How long a UDP mapping lives without a packet."""
        self.set("net.netfilter.nf_conntrack_udp_timeout", seconds)
        self.set("net.netfilter.nf_conntrack_udp_timeout_stream", seconds)

    def close(self) -> None:
        for host in self._hosts:
            host.close()
        super().close()


class Network:
    """The public network; everything else hangs on it."""

    def __init__(self) -> None:
        self._parts: list[Namespace] = []

    def __enter__(self) -> Self:
        self._wire = Namespace("wire")
        self._parts.append(self._wire)
        self._wire.run("ip", "link", "add", "wan", "type", "bridge")
        self._wire.run("ip", "link", "set", "wan", "up")
        return self

    def __exit__(self, *_exception: object) -> None:
        for part in reversed(self._parts):
            part.close()

    def public(self, name: str, number: int) -> Namespace:
        """A host of the public network."""
        host = Namespace(name, str(PUBLIC[number]))
        self._attach(host, number, "eth0")
        return host

    def router(self, name: str, number: int, inside: str, *, random_ports: bool = False) -> Router:
        """A router with a public address and a private network behind it."""
        router = Router(name, str(PUBLIC[number]), ipaddress.IPv4Network(inside))
        self._attach(router, number, "out")
        router.configure(random_ports=random_ports)
        return router

    def _attach(self, host: Namespace, number: int, device: str) -> None:
        self._parts.append(host)
        host.run("ip", "link", "set", "lo", "up")
        self._wire.link(f"to{number}", host, device)
        self._wire.run("ip", "link", "set", f"to{number}", "master", "wan")
        host.address(device, host.ip, PUBLIC)


def _new_namespace() -> int:
    """A thread makes it and ends; the descriptor keeps it."""
    result: list[int | OSError] = []

    def make() -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            result.append(OSError(error, os.strerror(error)))
        else:
            result.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
