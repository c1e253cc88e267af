"""`events --stats` of a container on a network: what has gone through its cable, as the container sees it."""

from __future__ import annotations

import json
from typing import Any

from tests.net.conftest import Started, address_of, inside
from tests.net.test_bridge import ask_when_ready
from tests.support.container import Container
from tests.support.namespace import Machine


def traffic(container: Container) -> list[dict[str, Any]] | None:
    result = container.runtime("events", "--stats", container.id)
    assert (result.status, result.stderr) == (0, ""), result
    found: list[dict[str, Any]] | None = json.loads(result.stdout)["data"]["network_interfaces"]
    return found


def test_bytes_and_packets_are_counted(started: Started, host: Machine) -> None:
    container = started("while :; do head -c 50000 /dev/zero | nc -l -p 80; done\n")
    (before,) = traffic(container) or []
    after = before
    for _ in range(50):  # nc ends as soon as it is told that no more is asked, and may not have sent all by then
        ask_when_ready(host, address_of(container), 80)
        (after,) = traffic(container) or []
        if after["TxBytes"] - before["TxBytes"] >= 50000:
            break
    assert before["Name"] in host.links()
    assert after["TxBytes"] - before["TxBytes"] >= 50000 > after["RxBytes"] - before["RxBytes"] > 0
    assert after["TxPackets"] > before["TxPackets"] and after["RxPackets"] > before["RxPackets"]
    assert {key: after[key] for key in ("RxErrors", "RxDropped", "TxErrors", "TxDropped")} == {
        key: before[key] for key in ("RxErrors", "RxDropped", "TxErrors", "TxDropped")
    }
    assert inside(container)["eth0"]["operstate"] == "UP"


def test_without_a_network_there_is_nothing_to_count(container: Container) -> None:
    container.run_sleeping()
    assert traffic(container) is None
