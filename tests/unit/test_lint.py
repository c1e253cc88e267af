"""lint: every problem, where it stands, and what may have been meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyruntime.cli import lint as verb
from pyruntime.cli.parse import parse
from pyruntime.errors import ConfigError, UsageError
from pyruntime.lint import almost, lint
from pyruntime.spec import validate
from pyruntime.spec.default import default_spec
from tests.support.config_keys import sample, schema_keys


def bundle(path: Path, config: Any, rootfs: str = "rootfs") -> str:
    """A bundle with this config: a text, or values."""
    (path / rootfs).mkdir()
    text = config if isinstance(config, str) else json.dumps(config, indent=1)
    (path / "config.json").write_text(text)
    return str(path)


def sound() -> Any:
    return default_spec()


def told(path: str) -> list[tuple[str, str, str, str]]:
    return [(one.severity, one.pointer, one.message, one.hint) for one in lint(path)]


def test_a_sound_bundle_has_nothing_to_be_said(tmp_path: Path) -> None:
    assert lint(bundle(tmp_path, sound())) == []


CONFIG = """\
{
  "ociVersion": "1.2.0",
  "proces": {},
  "process": {
    "args": ["sh", 5],
    "cwd": "tmp",
    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 1}]
  },
  "root": {"path": "rootfs"},
  "hostname": "x",
  "linux": {"rootfsPropagation": "x", "namespaces": [{"type": "mount"}],
    "resources": {"memory": {"limt": 1, "swappiness": 1}}}
}
"""


def test_all_problems_come_with_line_and_column(tmp_path: Path) -> None:
    found = [(one.line, one.column, one.severity, one.pointer) for one in lint(bundle(tmp_path, CONFIG))]
    assert found == [
        (3, 3, "warning", "/proces"),
        (5, 20, "error", "/process/args/1"),
        (6, 5, "error", "/process/cwd"),
        (10, 3, "error", "/hostname"),
        (11, 13, "error", "/linux/rootfsPropagation"),
        (12, 30, "warning", "/linux/resources/memory/limt"),
        (12, 41, "warning", "/linux/resources/memory/swappiness"),
    ]


def test_a_network_that_annotations_can_not_have(tmp_path: Path) -> None:
    spec = sound()
    spec["annotations"] = {"org.pyruntime.network": "bridge", "org.pyruntime.publish": "8080:80, 80"}
    (one,) = lint(bundle(tmp_path, spec))
    assert (one.severity, one.pointer) == ("error", "/annotations/org.pyruntime.publish")
    assert "'80' is no published port" in one.message


@pytest.mark.parametrize(
    ("network", "pointers"),
    [("bridge", []), ("none", []), ("container:web", []), ("host", ["/linux/sysctl/net.ipv4.ip_forward"])],
)
def test_what_annotations_mean_for_the_namespace(network: str, pointers: list[str], tmp_path: Path) -> None:
    """There is none in linux.namespaces, and the sysctl needs one."""
    spec = sound()
    spec["annotations"] = {"org.pyruntime.network": network}
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != "network"]
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert [one.pointer for one in lint(bundle(tmp_path, spec))] == pointers


def test_what_is_missing_is_told_where_it_should_stand(tmp_path: Path) -> None:
    spec = sound()
    del spec["process"]["args"], spec["linux"]["namespaces"]
    places = {(one.pointer, one.message): one.line for one in lint(bundle(tmp_path, spec))}
    lines = (tmp_path / "config.json").read_text().splitlines()
    (line,) = [line for (_, message), line in places.items() if message == "the key args is missing"]
    assert '"process"' in lines[line - 1]


def test_a_config_without_a_process_is_doubtful(tmp_path: Path) -> None:
    spec = sound()
    del spec["process"]
    (remark,) = lint(bundle(tmp_path, spec))
    assert (remark.severity, remark.pointer) == ("warning", "")
    assert remark.message.startswith("the key process is missing")


def test_problems_between_values_are_told_beside_those_of_other_values(tmp_path: Path) -> None:
    spec = sound()
    spec["process"]["cwd"] = 1
    spec["process"]["rlimits"][0]["soft"] = 99999
    spec["linux"]["sysctl"] = {"kernel.core_pattern": "x"}
    pointers = {pointer for _, pointer, _, _ in told(bundle(tmp_path, spec))}
    assert pointers == {"/process/cwd", "/process/rlimits/0/soft", "/linux/sysctl/kernel.core_pattern"}


@pytest.mark.parametrize(("place", "rules"), validate.READS.items())
def test_a_rule_is_not_given_what_is_broken(place: str, rules: tuple[str, ...]) -> None:
    """Each place that a rule reads is broken in turn; a rule that read it all the same would fail on its type."""
    assert place in {rule.__name__ for rule in validate.RULES}
    for where in rules:
        wrong: tuple[object, ...] = (5, [5], [[]], {"a": 5}, "x", [{"type": 5}])
        for broken in wrong:
            spec = sound()
            *parents, last = where.split("/")
            at = spec
            for key in parents:
                at = at.setdefault(key, {})
            at[last] = broken
            assert all(isinstance(error, ConfigError) for error in validate.problems(spec))


class Noted(dict[str, str]):
    """The namespaces as a rule gets them, noting whether it asked."""

    asked = False

    def __contains__(self, key: object) -> bool:
        self.asked = True
        return super().__contains__(key)

    def __getitem__(self, key: str) -> str:
        self.asked = True
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.asked = True
        return super().get(key, default)


@pytest.mark.parametrize("rule", validate.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_that_asks_for_namespaces_says_so(rule: Any) -> None:
    """Where they are broken, a rule that asked for one all the same would say that there is none."""
    keys = schema_keys()
    for key in keys:
        namespaces = Noted({"user": "", "mount": ""})
        spec = sample(key, keys[key]).spec
        [*rule(spec, namespaces)]
        assert not namespaces.asked or "linux/namespaces" in validate.READS.get(rule.__name__, ("linux/namespaces",))


def test_the_plan_is_asked_until_nothing_is_left(tmp_path: Path) -> None:
    spec = sound()
    spec["mounts"] += [
        {"destination": "/a", "type": "bind", "source": "/", "options": ["bind", "tmpcopyup"]},
        {"destination": "/b", "source": "/", "options": ["ro"]},
    ]
    spec["linux"]["resources"] |= {
        "unified": {"a/b": "1", "plain": "1"},
        "memory": {"limit": 5, "swap": 1},
        "hugepageLimits": [{"pageSize": "2/", "limit": 1}],
    }
    spec["linux"]["resources"]["devices"].append({"allow": True, "access": "xyz", "type": "c"})
    found = {pointer: severity for severity, pointer, _, _ in told(bundle(tmp_path, spec))}
    assert found == dict.fromkeys(
        (
            "/mounts/7/options",
            "/mounts/8/type",
            "/linux/resources/unified/a~1b",
            "/linux/resources/unified/plain",
            "/linux/resources/memory/swap",
            "/linux/resources/hugepageLimits/0/pageSize",
            "/linux/resources/devices/1/access",
        ),
        "error",
    )


@pytest.mark.parametrize(
    ("path", "key", "hint"),
    [
        ((), "Hostname", "did you mean hostname?"),
        (("process",), "envs", "did you mean env?"),
        (("process",), "rlimit", "did you mean rlimits?"),
        (("process",), "noNewPrivs", ""),
        (("process", "user"), "giid", "did you mean gid?"),
        (("linux",), "cgroupPath", "did you mean cgroupsPath?"),
        (("linux",), "memory", "there is linux.resources.memory"),
        ((), "args", "there is process.args"),
        (("linux", "resources", "memory"), "ilmit", "did you mean limit?"),
        (("mounts", 0), "optoins", "did you mean options?"),
        (("linux", "resources"), "readonlyPaths", "there is linux.readonlyPaths"),
        ((), "zzzz", ""),
    ],
)
def test_did_you_mean(tmp_path: Path, path: tuple[str | int, ...], key: str, hint: str) -> None:
    spec = sound()
    at = spec
    for name in path:
        at = at[name] if isinstance(name, int) else at.setdefault(name, {})
    at[key] = {}
    pointer = "".join(f"/{name}" for name in (*path, key))
    assert told(bundle(tmp_path, spec)) == [("warning", pointer, "unknown key, ignored", hint)]


def test_words_are_alike_only_if_they_are() -> None:
    assert almost("ab", ["cd"]) == ""
    assert almost("x", []) == ""
    assert almost("y" * 10_000_000, ["yes"]) == ""


def test_a_key_twice_is_told(tmp_path: Path) -> None:
    text = json.dumps(sound())
    found = lint(bundle(tmp_path, text[:-1] + ',\n "hostname": "b"}'))
    assert [(one.severity, one.pointer, one.line, one.column) for one in found] == [("warning", "/hostname", 2, 2)]


def test_what_is_not_on_disk(tmp_path: Path) -> None:
    spec = sound()
    spec["root"]["path"] = "elsewhere"
    spec["mounts"].append({"destination": "/a", "type": "bind", "source": "/no/such", "options": ["bind"]})
    spec["linux"]["namespaces"][1]["path"] = "/no/such/ns"
    assert [(severity, pointer) for severity, pointer, _, _ in told(bundle(tmp_path, spec))] == [
        ("error", "/root/path"),
        ("warning", "/mounts/7/source"),
        ("warning", "/linux/namespaces/1/path"),
    ]
    (tmp_path / "elsewhere").write_text("")
    assert "is not a directory" in str(told(str(tmp_path)))


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("", 1, 1),
        ("{\n  'a': 1}", 2, 3),
        ('{"a": 1\n  "b": 2}', 2, 3),
        ('{"a":\n "b', 2, 2),
        ("[]", 1, 1),
        ('{"a": NaN}', 1, 1),
        ("[" * 100_000, 1, 1),
    ],
)
def test_a_text_that_is_no_config(tmp_path: Path, text: str, line: int, column: int) -> None:
    (one,) = lint(bundle(tmp_path, text))
    assert (one.severity, one.pointer, one.line, one.column) == ("error", "", line, column)


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes('{\n "ü": "ü\udcff"}'.encode("utf-8", "surrogateescape"))
    (one,) = lint(str(tmp_path))
    assert (one.line, one.column) == (2, 9)


def test_no_bundle_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is none in the bundle"):
        lint(str(tmp_path))


def run(*argv: str) -> int:
    return verb.lint_bundle(parse(["lint", *argv]))


def test_lines_that_editors_can_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path, CONFIG)
    assert run(path) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"{path}/config.json:3:3: warning: /proces: unknown key, ignored (did you mean process?)"
    assert lines[-1] == f"{path}/config.json: 4 errors, 3 warnings"
    assert len(lines) == 8


def test_warnings_alone_are_no_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path, sound() | {"zzzz": 1})
    assert run("-b", path) == 0
    assert capfd.readouterr().out.endswith("no errors, 1 warning\n")


def test_json_for_programs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path, CONFIG)
    assert run("--format", "json", path) == 1
    found = json.loads(capfd.readouterr().out)
    assert (found["file"], found["errors"], found["warnings"]) == (f"{path}/config.json", 4, 3)
    assert found["problems"][0] == {
        "severity": "warning",
        "line": 3,
        "column": 3,
        "pointer": "/proces",
        "message": "unknown key, ignored",
        "hint": "did you mean process?",
    }


def test_keys_cannot_break_the_line_or_speak_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = bundle(tmp_path, sound() | {"a\n\u001b[2J\ud800\u202e": 1})
    assert run(path) == 0
    out = capfd.readouterr().out
    assert len(out.splitlines()) == 2
    assert "/a\\n\\x1b[2J\\ud800\\u202e: unknown" in out
    assert run("-f", "json", path) == 0
    assert json.loads(capfd.readouterr().out)["problems"][0]["pointer"] == "/a\n\u001b[2J\ud800\u202e"


def test_one_bundle_at_a_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one too many"):
        run("-b", str(tmp_path), str(tmp_path))


def test_a_verb_that_refuses_tells_how_much_more_there_is() -> None:
    spec = sound()
    spec["process"]["cwd"] = "x"
    with pytest.raises(ConfigError) as caught:
        validate.validate(spec)
    assert "lint" not in str(caught.value)
    spec["hostname"] = 5
    spec["zzzz"] = 5
    with pytest.raises(ConfigError) as caught:
        validate.validate(spec)
    assert str(caught.value).endswith('the string "x" (and 1 more: see `pyruntime lint`)')


@pytest.mark.parametrize(
    "change",
    [
        {"mounts": [{}] * 100_000},
        {"mounts": [{"destination": "/a", "type": "bind"}] * 10_000},
        {str(number): 0 for number in range(100_000)},
        {"annotations": {f"a{number}": 5 for number in range(100_000)}},
        {"hostname": 5, "linux": {"sysctl": {str(number): "" for number in range(10_000)}}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_million_mistakes_are_not_told_one_by_one(tmp_path: Path, change: dict[str, Any]) -> None:
    found = lint(bundle(tmp_path, sound() | change))
    assert 500 <= len(found) < 1100
    assert any("mend this first" in one.message for one in found)


def test_an_error_behind_a_thousand_warnings_is_found() -> None:
    spec: Any = {**{str(number): 0 for number in range(1000)}, **sound(), "hostname": 5}
    with pytest.raises(ConfigError, match="hostname: must be a string"):
        validate.validate(spec)
    spec = sound() | {"mounts": [{"destination": "/a", "x": 0, "type": "tmpfs"}] * 1000 + [{"type": 5}]}
    with pytest.raises(ConfigError, match=r"mounts/1000/type: must be a string"):
        validate.validate(spec)


def test_a_deep_nest_is_no_matter(tmp_path: Path) -> None:
    text = json.dumps(sound())[:-1] + ', "x": ' + "[" * 900 + "]" * 900 + "}"
    assert [one.pointer for one in lint(bundle(tmp_path, text))] == ["/x"]


def test_a_cgroup_of_systemds(tmp_path: Path) -> None:
    """It takes --systemd-cgroup, and is no fault of the config's."""
    spec = sound()
    spec["linux"]["cgroupsPath"] = "system.slice:docker:web"
    assert told(bundle(tmp_path, spec)) == []


@pytest.mark.parametrize(
    ("path", "annotations", "pointer"),
    [
        ("a/b.slice:docker:web", {}, "/linux/cgroupsPath"),
        (":docker:web", {"org.systemd.property.CollectMode": "oops"}, "/annotations/org.systemd.property.CollectMode"),
    ],
)
def test_a_scope_that_systemd_can_not_make(
    tmp_path: Path, path: str, annotations: dict[str, str], pointer: str
) -> None:
    spec = sound() | {"annotations": annotations}
    spec["linux"]["cgroupsPath"] = path
    assert [(severity, where) for severity, where, *_ in told(bundle(tmp_path, spec))] == [("error", pointer)]


def test_a_cgroup_that_no_container_can_have(tmp_path: Path) -> None:
    spec = sound()
    spec["linux"]["cgroupsPath"] = "/.."
    assert [(severity, pointer) for severity, pointer, *_ in told(bundle(tmp_path, spec))] == [
        ("error", "/linux/cgroupsPath"),
    ]
