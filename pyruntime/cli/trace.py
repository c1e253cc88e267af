"""`network trace`: the way of a packet from a container to the outside, hop by hop. runc has no counterpart.

    web: 10.89.0.2 to 192.0.2.1

     1  eth0 in the container: veth, up, mtu 1500, 02:50:0a:59:00:02
           address      10.89.0.2/24
           route        via 10.89.0.1 by eth0, as 10.89.0.2
           neighbour    10.89.0.1 is at 02:50:0a:59:00:01 (reachable)
    ...

A rule that may match, for all that can be told from outside, has a `?` in front; what is in the way has a `!`.
"""

from __future__ import annotations

from textwrap import wrap

from pyruntime.cli import emit
from pyruntime.cli.log import one_line
from pyruntime.errors import Error, StateError, UsageError
from pyruntime.jsontext import encode
from pyruntime.net.trace import trace
from pyruntime.state.status import is_alive
from pyruntime.state.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyruntime.cli.parse import Call
    from pyruntime.net.trace import Hop, Trace
    from pyruntime.state.store import Record

LABEL = 13  # characters of "neighbour" and the like, and the blanks behind them
WIDTH = 120


def trace_container(call: Call) -> int:
    """Print the way as text or JSON; return 1 if something is in the way."""
    store = Store(call.settings["root"], call.operands[0])
    record = store.read()
    if not is_alive(record):
        raise StateError("the container does not run: there is no network to look at")
    try:
        found = trace(record["pid"], *call.operands[1:])
    except ValueError as error:
        raise UsageError(f"{error}") from None
    problems = _what_plugins_say(store, record)
    if call.options["format"] == "json":
        emit(encode({"id": store.id, **found, "problems": problems}, indent="  ") + "\n")
    else:
        emit(as_text(found, store.id, problems))
    return 0 if found["arrives"] and not problems else 1


def _what_plugins_say(store: Store, record: Record) -> list[str]:
    """Those of CNI are asked to CHECK what they have made."""
    attachment: Any = record.get("network")
    if not attachment or attachment["kind"] != "cni":
        return []
    from pyruntime.net import cni

    try:
        cni.check(store.path)
    except Error as error:
        return [str(error)]
    return []


def as_text(found: Trace, id: str, problems: list[str]) -> str:
    """A paragraph a hop, and what it comes to."""
    lines = [f"{id}: {found['source'] or 'no address'} to {found['destination']}", ""]
    for number, hop in enumerate(found["hops"], 1):
        lines += _hop_lines(number, hop)
    lines += [f"  ! {one_line(problem)}" for problem in problems]
    count = sum(len(hop["problems"]) for hop in found["hops"]) + len(problems)
    if count:
        end = f"{count} thing{'s are' if count > 1 else ' is'} in the way, see !"
    elif found["translated"]:
        end = f"it leaves by {found['hops'][-1]['interface']}, under an address of this host"
    else:
        end = f"it leaves by {found['hops'][-1]['interface']}, under its own address"
    return "\n".join([*lines, "", end, ""])


def _hop_lines(number: int, hop: Hop) -> Iterator[str]:
    about = [hop["kind"], "up" if hop["up"] else "down", f"mtu {hop['mtu']}", hop["mac"]]
    about += [f"a port of {hop['master']}"] if hop["master"] else []
    place = "in the container" if hop["place"] == "container" else "on the host"
    yield f" {number}  {one_line(hop['interface'])} {place}: {', '.join(filter(None, about))}"
    for address in hop["addresses"]:
        yield _line("address", address)
    yield from _rule_lines(hop, before=True)
    for label, text in (("route", hop["route"]), ("neighbour", hop["neighbour"])):
        if text:
            yield _line(label, text)
    yield from _rule_lines(hop, before=False)
    for problem in hop["problems"]:
        yield f"      ! {one_line(problem)}"


def _rule_lines(hop: Hop, *, before: bool) -> Iterator[str]:
    """The rules of the hooks before, or behind, the routing."""
    for rule in hop["rules"]:
        if (rule["hook"] == "prerouting") == before:
            counted = "" if rule["packets"] is None else f"   [{rule['packets']} packets, {rule['bytes']} bytes]"
            mark = "" if rule["certain"] else "? "
            text = f"{rule['table']}, {rule['chain']}: {mark}{one_line(rule['rule'])}{counted}"
            first, *others = wrap(text, WIDTH - 6 - LABEL, break_long_words=False, break_on_hyphens=False)
            yield _line(rule["hook"], first)
            yield from (_line("", more) for more in others)


def _line(label: str, text: str) -> str:
    return f"      {label:{LABEL}}{text}"
