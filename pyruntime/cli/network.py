"""`network create | list | inspect | remove`: the networks of --net bridge. runc has no counterpart.

Read beside podman-network(1).
"""

from __future__ import annotations

from pyruntime.cli import emit
from pyruntime.cli.list import table_of
from pyruntime.jsontext import encode
from pyruntime.net import admin

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyruntime.cli.parse import Call


def create(call: Call) -> int:
    """Define a network, and print its definition."""
    options = call.options
    made = admin.create(call.settings["root"], call.operands[0], options["subnet"], options["mtu"])
    emit(encode(made, indent="  ") + "\n")
    return 0


def list_networks(call: Call) -> int:
    """Print a table, names alone, or JSON."""
    found = admin.listing(call.settings["root"])
    if call.options["quiet"]:
        emit("".join(f"{one['name']}\n" for one in found))
    elif call.options["format"] == "json":
        emit(encode(found) + "\n")
    else:
        rows: list[tuple[str, ...]] = [
            (one["name"], one["bridge"], one["state"], str(len(one["containers"])), ", ".join(_subnets(one)))
            for one in found
        ]
        emit(table_of(("NAME", "BRIDGE", "STATE", "CONTAINERS", "SUBNETS"), rows))
    return 0


def inspect(call: Call) -> int:
    """Print all that is known of a network."""
    emit(encode(admin.inspect(call.settings["root"], call.operands[0]), indent="  ") + "\n")
    return 0


def remove(call: Call) -> int:
    """Remove a network."""
    admin.remove(call.settings["root"], call.operands[0])
    return 0


def _subnets(network: admin.Report) -> list[str]:
    return [subnet["subnet"] for subnet in network["subnets"]]
