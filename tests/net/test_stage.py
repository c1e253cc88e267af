"""The stage itself: what the other tests take for granted of the host and the outside."""

from __future__ import annotations

import pytest

from tests.net.conftest import HOST, HOST6, OUTSIDE, OUTSIDE6, published
from tests.support.namespace import Machine


@pytest.mark.parametrize(("there", "here"), [(OUTSIDE, HOST), (OUTSIDE6, HOST6)])
def test_the_host_reaches_the_outside_by_its_own_address(
    host: Machine, outside: Machine, there: str, here: str
) -> None:
    with outside.listen(there, 80) as listener, host.connect(there, 80):
        _, peer = listener.accept()
    assert peer[0] == here


def test_the_machines_are_not_this_machine(host: Machine, outside: Machine) -> None:
    assert host.links().keys() == {"lo", "out0"}
    assert outside.links().keys() == {"lo", "eth0"}
    assert set(host.run("ls", "/sys/class/net").split()) >= {"lo", "out0"}
    assert host.run("ls", "/sys/fs/cgroup") != ""
    assert published(host) == []
    assert not outside.reaches(HOST, 80)
