"""`process.apparmorProfile`: in force for the program, from its first instruction. See launch/labels.py."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.runtime import identify
from tests.support.terminal import Terminal, finish, on_terminal

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

SECURITYFS = Path("/sys/kernel/security/apparmor")
NAME = "pyruntime-test"
# Made by `apparmor_parser -K -S -O no-expr-simplify` (3.0.8) of the following, and packed. No rule lets anything be
# executed, so that a hop which is confined itself could not execute the program.
#
#   profile pyruntime-test {
#     /** mrwlk,
#     / r,
#     signal,
#     capability,
#     deny /etc/secret r,
#   }
PROFILE = (
    "c-rk#(N2Rf6g`xdb~1*0TVkSLVB&-E&0jGgS_}yS0W{MG!=q3Bvfh?%Zj8N{?QN$yT-u&odQUH0;Z4^~Ru*6a09UB$GR<-gDPmOb"
    "^=r{)FZ#OGO$#0%&6DQ_l93jF55;~6gGDa!m{iT(Ey+i=6=h43r!+zEZ9Z*r@vyw7umHptP?T+&>!sQ7z@22i(%QAF?$gp>GjiOl"
    "_lCUeJ|IW({TCfGC5`3tT(Q23+`X^r4T#csL7WiJh#_%GO172Hx5LDV<K{3KoZg$-AV$X_z}%Vp(;ge#dSeiwuPh!Y0_WMx&ChYd"
    "e)wB`!f4LPK}B~NlD`qT7$3+%kFtw(cOM(f_5tj_6WTc2>7>46BR7vv&9EQp7r}@xY5"
)


@pytest.fixture
def profile() -> Iterator[str]:
    """The name of a profile that is loaded meanwhile."""
    (SECURITYFS / ".replace").write_bytes(zlib.decompress(base64.b85decode(PROFILE)))
    yield NAME
    (SECURITYFS / ".remove").write_bytes(NAME.encode())


@pytest.fixture
def confined(container: Container, profile: str) -> Container:
    """A container whose program runs under the profile."""
    container.process["apparmorProfile"] = profile
    return container


class TestWhereItIsOn:
    pytestmark = pytest.mark.needs("apparmor")

    @pytest.mark.parametrize("forbidden", [True, False])
    def test_the_program_is_confined(self, confined: Container, forbidden: bool) -> None:
        confined.process["noNewPrivileges"] = forbidden
        assert confined.output("read x < /proc/self/attr/current; echo $x") == f"{NAME} (enforce)"

    @pytest.mark.needs("libseccomp")
    @pytest.mark.parametrize("forbidden", [True, False])
    def test_beside_a_seccomp_filter(self, confined: Container, forbidden: bool) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
        confined.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        confined.process["noNewPrivileges"] = forbidden
        script = "read x < /proc/self/attr/current; echo $x; while read k v; do test $k = Seccomp: && echo $v; done"
        assert confined.output(f"{script} < /proc/self/status; :") == f"{NAME} (enforce)\n2"

    @pytest.mark.parametrize("forbidden", [True, False])
    @pytest.mark.parametrize("terminal", [True, False])
    def test_an_exec_is_confined(self, confined: Container, forbidden: bool, terminal: bool) -> None:
        confined.process["noNewPrivileges"] = forbidden
        confined.run_sleeping()
        show = ("sh", "-c", "read x < /proc/self/attr/current; echo $x")
        if not terminal:
            assert confined.exec(*show).stdout == f"{NAME} (enforce)\n"
            return
        with Terminal.open() as screen:
            process = confined.runtime.spawn("exec", "-t", confined.id, *show, **on_terminal(screen))
            screen.read_until(f"{NAME} (enforce)\r\n")
            assert finish(process) == 0

    def test_an_exec_by_its_option(self, container: Container, profile: str) -> None:
        container.run_sleeping()
        show = "read x < /proc/self/attr/current; echo $x"
        assert container.exec_output(show) == "unconfined"
        assert container.exec_output(show, "--apparmor", profile) == f"{NAME} (enforce)"
        result = container.exec("true", flags=["--apparmor", "no-such-profile"])
        assert result.status == 255
        if identify().name == "pyruntime":
            assert "--apparmor: write('/proc/self/attr/apparmor/exec'): ENOENT" in result.stderr

    def test_a_plain_user_is_confined(self, confined: Container) -> None:
        confined.process["user"] = {"uid": 7, "gid": 7}
        assert confined.output("read x < /proc/self/attr/current; echo $x") == f"{NAME} (enforce)"

    @pytest.mark.needs("userns")
    def test_in_a_user_namespace(self, confined: Container) -> None:
        confined.map_root_to(100000)
        assert confined.output("read x < /proc/self/attr/current; echo $x") == f"{NAME} (enforce)"

    def test_its_rules_hold(self, confined: Container) -> None:
        confined.add_file("etc/secret", "secret")
        confined.add_file("etc/open", "open\n")
        script = "read x < /etc/open; echo $x; (read x < /etc/secret) 2> /dev/null || echo denied"
        assert confined.output(script) == "open\ndenied"

    def test_what_it_does_not_name_is_not_executed(self, confined: Container) -> None:
        confined.script("/bin/env")
        result = confined.run()
        assert (result.status, result.stdout) == (126, "")

    def test_after_create_and_start(self, confined: Container) -> None:
        confined.process["args"] = ["sleep", "1000"]
        assert confined.create().status == 0
        waiting = Path(f"/proc/{confined.pid()}")
        assert waiting.joinpath("attr/current").read_text() == "unconfined\n", "the hop is to go unconfined"
        assert [name for name in os.listdir(waiting / "fd") if int(name) > 2] != [], "it waits on a socket"
        assert confined.start().status == 0
        confined.wait_for("running")
        wait_until(lambda: (waiting / "cmdline").read_bytes() == b"sleep\x001000\0", "the program")
        assert waiting.joinpath("attr/current").read_text() == f"{NAME} (enforce)\n"

    def test_no_descriptor_is_left(self, confined: Container) -> None:
        confined.script("for fd in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do test -L /proc/$$/fd/$fd && echo $fd; done")
        assert confined.run().stdout == "0\n1\n2\n"

    @pytest.mark.parametrize("how", ["run", "create"])
    def test_one_that_is_not_loaded(self, container: Container, refused: Refused, how: str) -> None:
        container.process["apparmorProfile"] = "no-such-profile"
        place = "config.json#/process/apparmorProfile"
        if how == "run":
            assert "profile" in refused(place).stderr.lower()
        else:
            result = container.create()
            assert result.status != 0
            assert not (container.runtime.root / container.id).exists()

    def test_an_empty_name_asks_for_nothing(self, container: Container) -> None:
        container.process["apparmorProfile"] = ""
        assert container.output("cat /proc/self/attr/current") == "unconfined"


@pytest.mark.skipif(Path("/sys/module/apparmor/parameters/enabled").exists(), reason="AppArmor is here")
def test_where_it_is_off(container: Container, refused: Refused) -> None:
    container.process["apparmorProfile"] = NAME
    assert "apparmor" in refused("config.json#/process/apparmorProfile").stderr.lower()
