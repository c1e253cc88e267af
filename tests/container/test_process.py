"""`process`: args, env, cwd, user, limits, capabilities and the rest as the program sees them (config.md#process)."""

from __future__ import annotations

import os
import re
import resource
import signal
from pathlib import Path

import pytest

from tests.support.container import Container, wait_until
from tests.support.fixtures import Refused
from tests.support.leftovers import Leftovers

pytestmark = pytest.mark.needs("root", "busybox", "cgroup2")

DEFAULT_CAPABILITIES = 1 << 29 | 1 << 5 | 1 << 10  # CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE


def test_arguments_arrive_unchanged(container: Container) -> None:
    words = ["", " ", "a b", '"', "'", "$HOME", "\\", "wörd", "\n", "-", "--", "*"]
    container.process["args"] = ["/bin/sh", "-c", 'for w; do printf "<%s>" "$w"; done', "sh", *words]
    assert container.run().stdout == "".join(f"<{word}>" for word in words)


def test_the_first_argument_is_argv0(container: Container) -> None:
    container.process["args"] = ["cat", "/proc/self/cmdline"]
    assert container.run().stdout == "cat\0/proc/self/cmdline\0"


def test_many_and_long_arguments(container: Container) -> None:
    container.process["args"] = ["/bin/sh", "-c", "echo $# ${#1}", "sh", "x" * 100000, *["y"] * 5000]
    assert container.run().stdout == "5001 100000\n"


def test_an_argument_longer_than_the_kernel_takes(container: Container, refused: Refused) -> None:
    container.process["args"] = ["/bin/true", "x" * (1 << 18)]
    refused("config.json#/process/args")


def test_path_of_the_config_is_searched(container: Container) -> None:
    container.add_file("opt/tool", "#!/bin/sh\necho tool\n", 0o755)
    container.process["env"][0] = "PATH=/nowhere:/opt:/bin"
    container.process["args"] = ["tool"]
    assert container.run().stdout == "tool\n"


def test_path_passes_over_what_is_not_executable(container: Container) -> None:
    container.add_file("a/tool", "#!/bin/sh\necho first\n", 0o644)
    container.add_file("b/tool", "#!/bin/sh\necho second\n", 0o755)
    (container.rootfs / "c/tool").mkdir(parents=True)
    container.process["env"][0] = "PATH=/c:/a:/b:/bin"
    container.process["args"] = ["tool"]
    assert container.run().stdout == "second\n"


def test_a_program_relative_to_cwd(container: Container) -> None:
    container.add_file("opt/tool", "#!/bin/sh\necho tool\n", 0o755)
    container.process["cwd"] = "/opt"
    container.process["args"] = ["./tool"]
    assert container.run().stdout == "tool\n"


class TestEnvironment:
    def test_is_the_configs_and_home(self, container: Container, marker: str) -> None:
        container.process["env"] = ["A=1", "EMPTY=", "EQUALS=a=b", "PATH=/bin"]
        container.process["args"] = ["/bin/cat", "/proc/self/environ"]
        assert container.run().stdout.split("\0")[:4] == ["A=1", "EMPTY=", "EQUALS=a=b", "PATH=/bin"]

    def test_has_nothing_of_the_callers(self, container: Container) -> None:
        container.runtime.environment["CALLERS"] = "secret"
        assert "CALLERS" not in container.output("env")

    def test_without_any(self, container: Container) -> None:
        container.process["env"] = []
        container.process["args"] = ["/bin/cat", "/proc/self/environ"]
        assert [entry for entry in container.run().stdout.split("\0") if entry and not entry.startswith("HOME=")] == []

    def test_key_missing_altogether(self, container: Container) -> None:
        del container.process["env"]
        container.process["args"] = ["/bin/echo", "fine"]
        assert container.run().stdout == "fine\n"

    @pytest.mark.parametrize(
        ("passwd", "uid", "home"),
        [("root:x:0:0:root:/own/root:/bin/sh\n", 0, "/own/root"), ("a:x:7:7::/home/a:/bin/sh\n", 7, "/home/a"),
         ("a:x:7:7::/home/a:/bin/sh\n", 8, "/"), (None, 7, "/"),
         ("garbage\n\n:::\na:x:7:7::/home/a:/bin/sh", 7, "/home/a"),
         ("a:x:7:7::/first:/bin/sh\nb:x:7:7::/second:/bin/sh\n", 7, "/first")],
    )  # fmt: skip
    def test_home_is_from_the_images_passwd(
        self, container: Container, passwd: str | None, uid: int, home: str
    ) -> None:
        if passwd is not None:
            container.add_file("etc/passwd", passwd)
        container.process["user"] = {"uid": uid, "gid": uid}
        assert container.output("echo $HOME") == home

    def test_home_of_the_config_wins(self, container: Container) -> None:
        container.add_file("etc/passwd", "root:x:0:0:root:/own/root:/bin/sh\n")
        container.process["env"].append("HOME=/configs")
        assert container.output("echo $HOME") == "/configs"

    def test_bytes_beyond_ascii(self, container: Container) -> None:
        container.process["env"].append("WORD=wörd €")
        assert container.output('printf %s "$WORD"') == "wörd €"


class TestDirectory:
    def test_cwd(self, container: Container) -> None:
        container.process["cwd"] = "/etc"
        assert container.output("pwd; readlink /proc/self/cwd") == "/etc\n/etc"

    def test_a_missing_one_is_created(self, container: Container) -> None:
        container.config["root"]["readonly"] = False
        container.process["cwd"] = "/new/place"
        assert container.output("pwd; stat -c %a:%u /new/place") == "/new/place\n755:0"

    def test_one_below_a_mount(self, container: Container) -> None:
        container.add_mount("/mnt", "tmpfs")
        container.process["cwd"] = "/mnt/below"
        assert container.output("pwd") == "/mnt/below"

    def test_through_a_symlink_of_the_image(self, container: Container) -> None:
        (container.rootfs / "link").symlink_to("/etc")
        container.process["cwd"] = "/link"
        assert container.output("readlink /proc/self/cwd") == "/etc"

    def test_one_that_only_the_user_may_enter(self, container: Container) -> None:
        """runc changes into it after it has become the user, too (a home on NFS with root squashed)."""
        (container.rootfs / "own").mkdir(mode=0o700)
        os.chown(container.rootfs / "own", 7, 7)
        container.process["user"] = {"uid": 7, "gid": 7}
        container.process["cwd"] = "/own"
        assert container.output("readlink /proc/self/cwd") == "/own"

    def test_a_file(self, container: Container, refused: Refused) -> None:
        container.add_file("file", "")
        container.process["cwd"] = "/file"
        refused("config.json#/process/cwd")

    def test_a_missing_one_on_a_readonly_root(self, container: Container) -> None:
        """The directory is made before the root becomes read-only."""
        container.process["cwd"] = "/new/place"
        assert container.output("pwd") == "/new/place"


class TestUser:
    def test_ids(self, container: Container) -> None:
        container.process["user"] = {"uid": 1234, "gid": 5678}
        status = container.status_fields()
        assert status["Uid"].split() == ["1234"] * 4
        assert status["Gid"].split() == ["5678"] * 4
        assert status["Groups"] == ""

    def test_additional_groups(self, container: Container) -> None:
        container.process["user"] = {"uid": 1, "gid": 2, "additionalGids": [5, 10, 70000]}
        assert container.status_fields()["Groups"].split() == ["5", "10", "70000"]

    def test_no_groups_of_the_callers(self, container: Container) -> None:
        container.script("cat /proc/self/status")
        groups = container.run(extra_groups=[4, 20, 27]).stdout
        assert "Groups:\t \n" in groups

    @pytest.mark.parametrize("umask", [0, 0o022, 0o027, 0o777])
    def test_umask(self, container: Container, umask: int) -> None:
        container.process["user"]["umask"] = umask
        assert int(container.output("umask"), 8) == umask

    def test_the_callers_umask_is_not_inherited(self, container: Container) -> None:
        container.script("umask")
        assert container.run(preexec_fn=lambda: os.umask(0o077)).stdout == "0022\n"

    @pytest.mark.only_pyruntime("runc takes IDs up to 2**31 - 1 only")
    def test_largest_ids(self, container: Container) -> None:
        container.process["user"] = {"uid": 2**32 - 2, "gid": 2**32 - 2}
        assert container.output("id -u; id -g").split() == [str(2**32 - 2)] * 2

    def test_names_of_the_image_play_no_part(self, container: Container) -> None:
        container.add_file("etc/passwd", "root:x:1000:1000::/:/bin/sh\n")
        container.add_file("etc/group", "root:x:1000:\nothers:x:55:root\n")
        status = container.status_fields()
        assert (status["Uid"].split()[0], status["Groups"]) == ("0", "")

    def test_standard_streams_belong_to_the_user(self, container: Container) -> None:
        """A pipe given by the caller is chowned, so that the program can open /dev/stdout again."""
        container.process["user"] = {"uid": 7, "gid": 7}
        assert container.output("echo again > /dev/stdout") == "again"


class TestLimits:
    def test_several(self, container: Container) -> None:
        container.process["rlimits"] = [
            {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
            {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 1 << 33},
            {"type": "RLIMIT_AS", "soft": 1 << 35, "hard": 1 << 36},
            {"type": "RLIMIT_CPU", "soft": 3600, "hard": 7200},
        ]
        lines = {
            line[:26].strip(): line[26:].split() for line in container.output("cat /proc/self/limits").splitlines()
        }
        assert lines["Max open files"][:2] == ["100", "200"]
        assert lines["Max core file size"][:2] == ["0", "4096"]
        assert lines["Max stack size"][:2] == [str(1 << 20), str(1 << 33)]
        assert lines["Max address space"][:2] == [str(1 << 35), str(1 << 36)]
        assert lines["Max cpu time"][:2] == ["3600", "7200"]

    NAMES = (
        ("AS", "address space"), ("CORE", "core file size"), ("CPU", "cpu time"), ("DATA", "data size"),
        ("FSIZE", "file size"), ("LOCKS", "file locks"), ("MEMLOCK", "locked memory"), ("MSGQUEUE", "msgqueue size"),
        ("NICE", "nice priority"), ("NOFILE", "open files"), ("NPROC", "processes"), ("RSS", "resident set"),
        ("RTPRIO", "realtime priority"), ("RTTIME", "realtime timeout"), ("SIGPENDING", "pending signals"),
        ("STACK", "stack size"),
    )  # fmt: skip

    @pytest.mark.parametrize(("name", "shown"), NAMES)
    def test_each(self, container: Container, name: str, shown: str) -> None:
        number = getattr(resource, f"RLIMIT_{name}", {"LOCKS": 10}.get(name, 0))
        _, hard = resource.getrlimit(number)
        soft = hard if hard != resource.RLIM_INFINITY else 2**64 - 1
        container.process["rlimits"] = [{"type": f"RLIMIT_{name}", "soft": soft, "hard": soft}]
        limit = "unlimited" if soft == 2**64 - 1 else str(soft)
        (line,) = [
            line for line in container.output("cat /proc/self/limits").splitlines() if line[4:].startswith(shown)
        ]
        assert line[26:].split()[:2] == [limit, limit]

    def test_without_any_the_callers_are_kept(self, container: Container) -> None:
        container.process["rlimits"] = []
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        (line,) = [line for line in container.output("cat /proc/self/limits").splitlines() if "open files" in line]
        assert line.split()[3:5] == [str(soft), str(hard)]


class TestCapabilities:
    """The five sets, read from /proc/self/status. See capabilities(7)."""

    SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

    def sets(self, container: Container) -> dict[str, int]:
        fields = container.status_fields()
        return {name: int(fields[name], 16) for name in self.SETS}

    def test_the_default_spec(self, container: Container) -> None:
        some = DEFAULT_CAPABILITIES
        assert self.sets(container) == {"CapInh": 0, "CapPrm": some, "CapEff": some, "CapBnd": some, "CapAmb": 0}

    def test_none(self, container: Container) -> None:
        container.process["capabilities"] = {}
        assert set(self.sets(container).values()) == {0}

    @pytest.mark.only_pyruntime("runc main keeps all of its own there; crun and older runc give none, and so do we")
    def test_key_missing_altogether_means_none(self, container: Container) -> None:
        del container.process["capabilities"]
        assert self.sets(container)["CapEff"] == 0

    def test_each_set_on_its_own(self, container: Container) -> None:
        container.process["capabilities"] = {
            "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID"],
            "permitted": ["CAP_KILL", "CAP_SETUID"],
            "effective": ["CAP_KILL"],
        }
        container.process["user"] = {"uid": 7, "gid": 7}
        # An execve(2) of an ordinary file by a user drops what is not ambient.
        assert self.sets(container) == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapBnd": 0b10100001, "CapAmb": 0}

    def test_ambient_reaches_a_plain_user(self, container: Container) -> None:
        names = ["CAP_NET_BIND_SERVICE"]
        container.process["capabilities"] = {
            name: list(names) for name in ("bounding", "permitted", "effective", "inheritable", "ambient")
        }
        container.process["user"] = {"uid": 7, "gid": 7}
        one = 1 << 10
        assert self.sets(container) == dict.fromkeys(self.SETS, one)

    def test_ambient_works_for_the_user(self, container: Container) -> None:
        container.process["capabilities"] = {
            name: ["CAP_DAC_OVERRIDE"] for name in ("bounding", "permitted", "effective", "inheritable", "ambient")
        }
        container.process["user"] = {"uid": 7, "gid": 7}
        container.add_file("etc/shadow", "secret\n", 0o600)
        assert container.output("cat /etc/shadow") == "secret"

    def test_inheritable(self, container: Container) -> None:
        container.process["capabilities"]["inheritable"] = ["CAP_KILL"]
        assert self.sets(container)["CapInh"] == 1 << 5

    def test_bounding_limits_what_root_gets(self, container: Container) -> None:
        container.process["capabilities"]["bounding"] = ["CAP_KILL"]
        container.process["capabilities"]["permitted"] = ["CAP_KILL"]
        container.process["capabilities"]["effective"] = ["CAP_KILL"]
        assert self.sets(container)["CapPrm"] == 1 << 5

    def test_an_unknown_name_is_a_warning(self, container: Container) -> None:
        for names in container.process["capabilities"].values():
            names.append("CAP_NO_SUCH_THING")
        container.process["args"] = ["echo", "fine"]
        result = container.run()
        assert (result.status, result.stdout) == (0, "fine\n")
        assert "CAP_NO_SUCH_THING" in result.stderr

    @pytest.fixture
    def private(self, container: Container) -> Container:
        """User 7 with a program in a directory of mode 0700, both root's, which shows its sets."""
        container.add_file("private/busybox", (container.rootfs / "bin/busybox").read_bytes(), 0o700)
        (container.rootfs / "private").chmod(0o700)
        container.process["args"] = ["/private/busybox", "grep", "^Cap", "/proc/self/status"]
        container.process["user"] = {"uid": 7, "gid": 7}
        return container

    def test_a_program_that_only_a_capability_lets_execute(self, private: Container) -> None:
        """The kernel asks for it at the execve of the program, which takes it away: capabilities(7)."""
        assert private.run().status != 0
        private.grant("CAP_DAC_OVERRIDE")
        for verb in ("run", "create"):
            result = private.run() if verb == "run" else private.create()
            assert result.status == 0
            if verb == "create":
                private.delete("--force")
            else:
                sets = {line.split()[0]: int(line.split()[1], 16) for line in result.stdout.splitlines()}
                assert sets == dict.fromkeys(sets, 0) | {"CapBnd:": DEFAULT_CAPABILITIES | 1 << 1}

    def test_an_exec_of_it(self, private: Container) -> None:
        args, private.process["args"] = private.process["args"], ["sleep", "1000"]
        private.grant("CAP_DAC_OVERRIDE")
        private.run_sleeping()
        result = private.exec(*args)
        assert result.status == 0
        assert "CapEff:\t0000000000000000" in result.stdout
        assert "CapAmb:\t0000000000000000" in result.stdout

    def test_a_plain_user_keeps_the_bounding_set_only(self, container: Container) -> None:
        container.process["user"] = {"uid": 1000, "gid": 1000}
        sets = self.sets(container)
        assert sets["CapBnd"] == DEFAULT_CAPABILITIES
        assert sets["CapPrm"] == sets["CapEff"] == 0


@pytest.mark.parametrize("wanted", [True, False])
def test_no_new_privileges(container: Container, wanted: bool) -> None:
    container.process["noNewPrivileges"] = wanted
    assert container.status_fields()["NoNewPrivs"] == str(int(wanted))


@pytest.mark.parametrize("score", [0, 500, 1000])
def test_oom_score_adj(container: Container, score: int) -> None:
    container.process["oomScoreAdj"] = score
    assert container.output("cat /proc/self/oom_score_adj") == str(score)


@pytest.mark.needs("CAP_SYS_RESOURCE")
def test_negative_oom_score_adj(container: Container) -> None:
    container.process["oomScoreAdj"] = -500
    assert container.output("cat /proc/self/oom_score_adj") == "-500"


def test_oom_score_adj_is_the_callers_by_default(container: Container) -> None:
    assert container.output("cat /proc/self/oom_score_adj") == Path("/proc/self/oom_score_adj").read_text().strip()


@pytest.mark.runc_since("1.2", "personality")
@pytest.mark.parametrize(("domain", "value"), [("LINUX", 0), ("LINUX32", 8)])
def test_personality(container: Container, domain: str, value: int) -> None:
    """PER_LINUX and PER_LINUX32 of personality(2); not by uname(2), for not every kernel has 32-bit emulation."""
    container.linux["personality"] = {"domain": domain}
    assert int(container.output("cat /proc/self/personality"), 16) == value


def test_signals_are_neither_blocked_nor_ignored(container: Container) -> None:
    """Python ignores SIGPIPE and SIGXFSZ from its start, and a supervisor blocks signals: none may be inherited."""
    container.process["args"] = ["cat", "/proc/self/status"]
    # A test run in the background of a shell ignores SIGINT and SIGQUIT, and runc hands that on.
    status = container.run(preexec_fn=reset_signals).stdout
    assert re.findall(r"Sig(?:Ign|Blk):\t(\w+)", status) == ["0" * 16] * 2


def reset_signals() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is not None:
            signal.signal(number, signal.SIG_DFL)


def test_signals_the_caller_ignores_or_blocks(container: Container) -> None:
    """Engines and nohup ignore some; the container starts clean of blocked ones."""
    container.process["args"] = ["cat", "/proc/self/status"]
    result = container.run(
        preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])
    )
    assert re.findall(r"SigBlk:\t(\w+)", result.stdout) == ["0" * 16]


def test_a_broken_pipe_ends_the_program(container: Container) -> None:
    assert container.output("(yes; echo $? >&2) | head -n 1") == "y"


class TestDescriptors:
    """Nothing but standard input, output and error is inherited (CVE-2024-21626)."""

    # The shell's descriptor for the listing itself is gone by the time of the readlink.
    LIST = "for fd in /proc/$$/fd/*; do readlink $fd > /dev/null && echo ${fd##*/}; done; true"

    def numbers(self, text: str) -> set[int]:
        return {int(line) for line in text.splitlines()}

    def test_three(self, container: Container) -> None:
        assert self.numbers(container.output(self.LIST)) == {0, 1, 2}

    def test_three_when_detached(self, container: Container) -> None:
        container.process["args"] = ["sleep", "1000"]
        assert container.run_detached().status == 0
        assert sorted(os.listdir(f"/proc/{container.pid()}/fd")) == ["0", "1", "2"]

    def test_three_after_create_and_start(self, container: Container) -> None:
        container.process["args"] = ["sleep", "1000"]
        assert container.create().status == 0
        assert container.start().status == 0
        container.wait_for("running")
        pid = container.pid()
        wait_until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep"), "the program")
        assert sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"]

    def test_the_callers_others_are_closed(self, container: Container) -> None:
        read_fd, write_fd = os.pipe()
        container.script(self.LIST)
        try:
            result = container.run(pass_fds=[read_fd, write_fd])
        finally:
            os.close(read_fd)
            os.close(write_fd)
        assert self.numbers(result.stdout) == {0, 1, 2}

    def test_preserved_ones_are_passed(self, container: Container, tmp_path: Path) -> None:
        """--preserve-fds N passes 3 to N+2 (and LISTEN_FDS more), as systemd's socket activation needs."""
        (tmp_path / "data").write_text("through a descriptor\n")
        with open(tmp_path / "data") as file:

            def place() -> None:
                os.dup2(file.fileno(), 3)
                os.dup2(file.fileno(), 4)

            container.script("cat <&4; " + self.LIST)
            container.write()
            result = container.runtime(
                "run", "--preserve-fds", "2", "-b", str(container.path), container.id, preexec_fn=place, close_fds=False
            )
        assert result.stdout.startswith("through a descriptor\n"), result
        assert self.numbers("\n".join(result.stdout.splitlines()[1:])) == {0, 1, 2, 3, 4}

    @pytest.mark.only_pyruntime("runc since 1.2 leaves its state directory then")
    def test_preserving_what_is_not_open(self, container: Container, leftovers: Leftovers) -> None:
        result = container.run("--preserve-fds", "50")
        assert result.status == 1
        assert leftovers.found() == []

    def test_no_path_of_the_host_through_any(self, container: Container) -> None:
        listing = container.output("for fd in /proc/$$/fd/*; do readlink $fd; done; true")
        assert str(container.path) not in listing.replace(str(container.rootfs), "")


def test_it_leads_its_session(container: Container) -> None:
    """The sixth field of /proc/PID/stat is the session: the program's own, not the caller's."""
    assert container.output("cut -d' ' -f1,5,6 /proc/$$/stat; echo $$").split() == ["1", "1", "1", "1"]


def test_not_executable(container: Container, refused: Refused) -> None:
    container.add_file("bin/data", "just data\n", 0o644)
    container.process["args"] = ["/bin/data"]
    result = refused("config.json#/process/args")
    assert "ermission denied" in result.stderr


def test_a_script_without_its_interpreter(container: Container, refused: Refused) -> None:
    """execve(2) says ENOENT although the script is there: the message must not blame the script's name alone."""
    container.add_file("bin/script", "#!/no/such/interpreter\n", 0o755)
    container.process["args"] = ["/bin/script"]
    assert "/bin/script" in refused("config.json#/process/args").stderr


def test_a_program_of_no_known_format(container: Container, refused: Refused) -> None:
    container.add_file("bin/data", "\x7fnot an ELF\n", 0o755)
    container.process["args"] = ["/bin/data"]
    result = refused("config.json#/process/args")
    assert "xec format error" in result.stderr


def test_a_directory_as_program(container: Container, refused: Refused) -> None:
    container.process["args"] = ["/bin"]
    refused("config.json#/process/args")


@pytest.mark.parametrize("name", ["no-such-program", "/no/such/program", "./no-such-program"])
def test_command_not_found(container: Container, refused: Refused, name: str) -> None:
    container.process["args"] = [name]
    result = refused("config.json#/process/args")
    assert name in result.stderr


@pytest.mark.only_pyruntime("runc says $PATH, not what it is")
def test_command_not_found_tells_the_path_that_was_searched(container: Container, refused: Refused) -> None:
    container.process["args"] = ["no-such-program"]
    result = refused("config.json#/process/args/0")
    assert "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" in result.stderr
