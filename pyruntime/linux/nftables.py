"""nf_tables, as much as a published port takes: elements of sets and maps, added and removed in one transaction.

Rules are nft(8)'s business (net/ruleset.py): it compiles them. An element is a few bytes, and writing it ourselves
costs a tenth of starting nft, and tells a port that is taken from other failures: the kernel says EEXIST.

A transaction is a batch: the kernel performs all of its messages, or none.

Read beside the kernel's net/netfilter/nf_tables_api.c and nfnetlink.c:/^static void nfnetlink_rcv_batch/.
"""

from __future__ import annotations

from _socket import SOL_SOCKET
from _struct import calcsize, pack, unpack_from
from errno import EBUSY, EEXIST, ENOENT, ERESTART

from pyruntime.errors import KernelError
from pyruntime.linux import constants as c
from pyruntime.linux import netfilter_constants as n
from pyruntime.linux.netlink_socket import (
    HEADER,
    MESSAGE_MAX,
    NetlinkSocket,
    attribute,
    attributes,
    entries,
    explanation,
    messages,
    open_socket,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from pyruntime.linux.netlink_socket import Attributes

    Element: TypeAlias = tuple[str, bytes, bytes]  # the set or map, the key, what a map says of it: b"" in a set
    Message: TypeAlias = tuple[int, int, bytes]  # NFT_MSG_..., NLM_F_..., the payload

NFGENMSG = ">BBH"  # struct nfgenmsg: family, version, resource
_CHUNK = 400  # elements in one message: an attribute has 64 KiB at most
_BUFFER = 1 << 16  # bytes that a socket's send buffer takes at any rate


class Chain:
    """A base chain: where it is, what becomes of a packet that no rule decides about, and how many rules it has."""

    __slots__ = ("drops", "family", "hook", "name", "rules", "table")

    def __init__(self, family: int, found: Attributes) -> None:
        self.family = family
        self.table = _string(found[n.NFTA_CHAIN_TABLE])
        self.name = _string(found[n.NFTA_CHAIN_NAME])
        hook = attributes(found.get(n.NFTA_CHAIN_HOOK, b""), 0).get(n.NFTA_HOOK_HOOKNUM)
        self.hook = unpack_from(">I", hook)[0] if hook else -1  # NF_INET_FORWARD and others; -1: no base chain
        policy = found.get(n.NFTA_CHAIN_POLICY)
        self.drops = policy is not None and unpack_from(">I", policy)[0] == n.NF_DROP
        self.rules = unpack_from(">I", found[n.NFTA_CHAIN_USE])[0]


class Nftables(NetlinkSocket):
    """A socket to nf_tables in the network namespace that this process is in. To be closed.

    Every method raises KernelError. EINVAL, EOPNOTSUPP: the kernel was built without nf_tables.
    """

    __slots__ = ("family", "table")

    def __init__(self, table: str, family: int = n.NFPROTO_INET) -> None:
        """The table need not be there. Raises KernelError."""
        try:
            super().__init__(open_socket(n.NETLINK_NETFILTER))
        except OSError as error:
            raise KernelError("socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)", error.errno or 0) from error
        self.table = table
        self.family = family

    def chain(self, name: str) -> Chain | None:
        """A chain of the table; None if either is not there."""
        payload = self._named(n.NFTA_CHAIN_TABLE) + attribute(n.NFTA_CHAIN_NAME, _text(name))
        found = self._look(n.NFT_MSG_GETCHAIN, payload, f"NFT_MSG_GETCHAIN({name!r})")
        return _chain(found[0]) if found else None

    def chains(self) -> list[Chain]:
        """The chains of all tables of all families."""
        request = pack(NFGENMSG, n.NFPROTO_UNSPEC, n.NFNETLINK_V0, 0)
        return list(map(_chain, self._ask(_kind(n.NFT_MSG_GETCHAIN), c.NLM_F_DUMP, request, "NFT_MSG_GETCHAIN")))

    def ends_in(self, chain: Chain) -> list[tuple[str, int]]:
        """The expressions of the last rule of a chain, each with its verdict: [("counter", -1), ("immediate", 0)]."""
        rules = self._rules(chain, attribute(n.NFTA_RULE_CHAIN, _text(chain.name)))
        if not rules:
            return []
        listed = attributes(rules[-1], calcsize(NFGENMSG)).get(n.NFTA_RULE_EXPRESSIONS, b"")
        return [_expression(value) for _, value in entries(listed)]

    def mentions(self, chain: Chain, name: str) -> bool:
        """Whether a rule of the chain's table has this name in it, such as a device's."""
        return any(name.encode(errors="surrogateescape") in rule for rule in self._rules(chain, b""))

    def find(self, element: Element) -> bytes | None:
        """What the map says of the key, b"" for a set; None if it has no such element."""
        name, key, _ = element
        call = f"NFT_MSG_GETSETELEM({name!r})"
        found = self._look(n.NFT_MSG_GETSETELEM, self._elements(name, [(name, key, b"")]), call)
        return _listed(found[0])[0][2] if found else None

    def elements(self, name: str) -> list[Element]:
        """All elements of a set or map; none if it is not there. While a large one grows, some may be missing."""
        payload = self._named(n.NFTA_SET_ELEM_LIST_TABLE) + attribute(n.NFTA_SET_ELEM_LIST_SET, _text(name))
        parts = self._look(n.NFT_MSG_GETSETELEM, payload, f"NFT_MSG_GETSETELEM({name!r})", c.NLM_F_DUMP)
        return [(name, key, data) for part in parts for _, key, data in _listed(part)]

    def add(self, elements: Sequence[Element]) -> None:
        """Add elements. EEXIST: one of the keys is taken. ENOENT: the table, or one of the sets, is not there."""
        flags = c.NLM_F_CREATE | c.NLM_F_EXCL
        self._transact([(n.NFT_MSG_NEWSETELEM, flags, part) for part in self._parts(elements)], "NFT_MSG_NEWSETELEM")

    def remove(self, elements: Sequence[Element]) -> None:
        """Remove elements. ENOENT: one of them is not there."""
        self._transact([(n.NFT_MSG_DELSETELEM, 0, part) for part in self._parts(elements)], "NFT_MSG_DELSETELEM")

    def generation(self) -> int:
        """A number that every transaction of this network namespace changes, whoever made it."""
        request = pack(NFGENMSG, n.NFPROTO_UNSPEC, n.NFNETLINK_V0, 0)
        answer = self._ask(_kind(n.NFT_MSG_GETGEN), 0, request, "NFT_MSG_GETGEN")[0]
        number: int = unpack_from(">I", attributes(answer, calcsize(NFGENMSG))[n.NFTA_GEN_ID])[0]
        return number

    def remove_table(self, generation: int) -> bool:
        """Remove the table, unless anything has changed since this `generation`: whether it has been removed."""
        payload = self._named(n.NFTA_TABLE_NAME)
        try:
            self._transact([(n.NFT_MSG_DELTABLE, 0, payload)], f"NFT_MSG_DELTABLE({self.table!r})", generation)
        except KernelError as error:
            if error.errno == ERESTART:
                return False
            raise
        return True

    def _named(self, kind: int) -> bytes:
        return pack(NFGENMSG, self.family, n.NFNETLINK_V0, 0) + attribute(kind, _text(self.table))

    def _rules(self, chain: Chain, narrowed: bytes) -> list[bytes]:
        request = pack(NFGENMSG, chain.family, n.NFNETLINK_V0, 0) + attribute(n.NFTA_RULE_TABLE, _text(chain.table))
        call = f"NFT_MSG_GETRULE({chain.table!r})"
        return self._ask(_kind(n.NFT_MSG_GETRULE), c.NLM_F_DUMP, request + narrowed, call)

    def _look(self, message: int, payload: bytes, call: str, flags: int = 0) -> list[bytes]:
        """The answers; none if what is asked for is not there."""
        try:
            return self._ask(_kind(message), flags, payload, call)
        except KernelError as error:
            if error.errno == ENOENT:
                return []
            raise

    def _parts(self, elements: Sequence[Element]) -> list[bytes]:
        """The payloads of the messages that name these elements."""
        names = sorted({element[0] for element in elements})
        sets = [[element for element in elements if element[0] == name] for name in names]
        return [self._elements(of[0][0], of[at : at + _CHUNK]) for of in sets for at in range(0, len(of), _CHUNK)]

    def _elements(self, name: str, elements: Sequence[Element]) -> bytes:
        listed = b"".join(attribute(n.NFTA_LIST_ELEM | c.NLA_F_NESTED, _element(each)) for each in elements)
        return (
            self._named(n.NFTA_SET_ELEM_LIST_TABLE)
            + attribute(n.NFTA_SET_ELEM_LIST_SET, _text(name))
            + attribute(n.NFTA_SET_ELEM_LIST_ELEMENTS | c.NLA_F_NESTED, listed)
        )

    def _transact(self, batch: list[Message], call: str, generation: int | None = None) -> None:
        """Perform all messages, or none. With `generation`: only if nothing has changed since, else ERESTART."""
        if not batch:
            return
        frame = pack(NFGENMSG, n.NFPROTO_UNSPEC, n.NFNETLINK_V0, n.NFNL_SUBSYS_NFTABLES)
        number = b"" if generation is None else attribute(n.NFNL_BATCH_GENID, pack(">I", generation))
        first = self._sequence + 1
        data = self._framed(n.NFNL_MSG_BATCH_BEGIN, 0, frame + number)
        for message, flags, payload in batch[:-1]:
            data += self._framed(_kind(message), flags, payload)
        message, flags, payload = batch[-1]
        data += self._framed(_kind(message), flags | c.NLM_F_ACK, payload)
        last = self._sequence
        data += self._framed(n.NFNL_MSG_BATCH_END, 0, frame)
        try:
            if len(data) > _BUFFER:
                self._socket.setsockopt(SOL_SOCKET, n.SO_SNDBUFFORCE, 2 * len(data))
            self._socket.send(data)
            self._conclude(first, last, call)
        except OSError as error:
            if isinstance(error, KernelError):
                raise
            raise KernelError(call, error.errno or 0) from error

    def _framed(self, kind: int, flags: int, payload: bytes) -> bytes:
        """One message of a batch, with the next sequence number."""
        self._sequence += 1
        size = calcsize(HEADER) + len(payload)
        header = pack(HEADER, size, kind, flags | c.NLM_F_REQUEST, self._sequence, 0)
        return header + payload + bytes(-size % 4)

    def _conclude(self, first: int, last: int, call: str) -> None:
        """Wait for the last message's answer, or for the batch's as a whole; the first error of all is raised."""
        failure: KernelError | None = None
        while True:
            for kind, got, sequence, payload in messages(self._socket.recv(MESSAGE_MAX)):
                if kind != c.NLMSG_ERROR or not first <= sequence <= last:
                    continue
                number = -unpack_from("=i", payload)[0]
                if number and failure is None:
                    failure = KernelError(call, number, hint=explanation(got, payload))
                if sequence == last or (sequence == first and number):
                    if failure is not None:
                        raise failure
                    return


def is_taken(error: KernelError) -> bool:
    """Whether `add` failed since a key is there already. EBUSY: with other data, as older kernels say."""
    return error.errno in (EEXIST, EBUSY)


def register(value: bytes) -> bytes:
    """A part of a concatenated key or datum: each fills registers of 4 bytes."""
    return value + bytes(-len(value) % 4)


def _kind(message: int) -> int:
    return n.NFNL_SUBSYS_NFTABLES << 8 | message


def _text(name: str) -> bytes:
    return name.encode(errors="surrogateescape") + b"\0"


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="surrogateescape")


def _chain(answer: bytes) -> Chain:
    return Chain(answer[0], attributes(answer, calcsize(NFGENMSG)))


def _element(element: Element) -> bytes:
    _, key, data = element
    told = attribute(n.NFTA_SET_ELEM_KEY | c.NLA_F_NESTED, attribute(n.NFTA_DATA_VALUE, key))
    if data:
        told += attribute(n.NFTA_SET_ELEM_DATA | c.NLA_F_NESTED, attribute(n.NFTA_DATA_VALUE, data))
    return told


def _listed(answer: bytes) -> list[Element]:
    """The elements that a message lists; of an interval there are two."""
    found = attributes(answer, calcsize(NFGENMSG))
    name = _string(found[n.NFTA_SET_ELEM_LIST_SET])
    listed = []
    for _, value in entries(found.get(n.NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
        parts = attributes(value, 0)
        key, data = (attributes(parts.get(kind, b""), 0) for kind in (n.NFTA_SET_ELEM_KEY, n.NFTA_SET_ELEM_DATA))
        listed.append((name, key.get(n.NFTA_DATA_VALUE, b""), data.get(n.NFTA_DATA_VALUE, b"")))
    return listed


def _expression(value: bytes) -> tuple[str, int]:
    """An expression's name and, if it is a verdict, NF_DROP or NF_ACCEPT or another; else -1."""
    found = attributes(value, 0)
    data = attributes(found.get(n.NFTA_EXPR_DATA, b""), 0).get(n.NFTA_IMMEDIATE_DATA, b"")
    verdict = attributes(attributes(data, 0).get(n.NFTA_DATA_VERDICT, b""), 0).get(n.NFTA_VERDICT_CODE)
    name = _string(found[n.NFTA_EXPR_NAME])
    return name, unpack_from(">i", verdict)[0] if verdict and name == "immediate" else -1
