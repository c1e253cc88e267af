"""The shapes of the JSON that this package reads and writes. For type checkers: never imported at run time."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class Subnet(TypedDict):
    """A range of addresses, and the one of them that the host has: the way out for the containers."""

    subnet: str  # "10.89.0.0/24", "fd00:10:89::/64"
    gateway: str  # "10.89.0.1"


class Network(TypedDict):
    """`~networks/NAME.json`."""

    name: str
    bridge: str  # the interface's name on the host
    subnets: list[Subnet]  # a container gets one address of each
    mtu: int  # bytes; 0: the kernel's choice


class Port(TypedDict):
    """A published port: who connects to it on the host reaches the container."""

    address: str  # of the host; "": all of them
    hostPort: int
    port: int  # of the container
    protocol: Literal["tcp", "udp"]


class Endpoint(TypedDict):
    """A lease: what one container has of a network."""

    id: str  # the container's
    network: str
    ips: list[str]  # "10.89.0.2/24", in the order of the network's subnets
    mac: str
    interface: str  # the host's end of the veth pair
    hostname: str  # "" where it has none that others may know it by
    ports: list[Port]
    bootId: str  # of the boot that it is from: no other has anything of it in the kernel


class Leases(TypedDict):
    """`~networks/NAME.leases.json`."""

    last: list[str]  # the address that was given away last, of each subnet
    leases: list[Endpoint]


class Attachment(TypedDict):
    """The record's `network`: what a container was asked to be connected to, and what came of it."""

    kind: str  # a key of net.KINDS
    name: str
    ip: str  # that was asked for; "": any
    ports: list[Port]
    hostname: str  # config.json's
    endpoint: NotRequired[Endpoint]
