"""Reading a bundle's config.json: each way in which it can be missing or unreadable has its own sentence."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyruntime.errors import ConfigError, KernelError, UsageError
from pyruntime.spec import load


def write(bundle: Path, data: bytes) -> str:
    (bundle / "config.json").write_bytes(data)
    return str(bundle)


def test_load_gives_the_spec_and_the_bytes_of_the_file(tmp_path: Path) -> None:
    data = '{ "ociVersion": "1.3.0", "hostname": "café" }\n'.encode()
    spec, raw = load.load(write(tmp_path, data))
    assert spec == {"ociVersion": "1.3.0", "hostname": "café"}
    assert raw == data


def test_an_empty_path_is_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, b"{}")
    monkeypatch.chdir(tmp_path)
    assert load.load("")[0] == {}


def test_config_json_may_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_bytes(b'{"hostname": "a"}')
    (tmp_path / "config.json").symlink_to("real.json")
    assert load.load(str(tmp_path))[0] == {"hostname": "a"}


def test_null_members_are_dropped_at_every_depth_and_array_elements_kept() -> None:
    text = b'{"a": null, "b": {"c": null, "d": [{"e": null}, null]}, "f": "null"}'
    assert load.parse(text) == {"b": {"d": [{}, None]}, "f": "null"}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "config.json: the text is empty"),
        (b'{"process": {"args": ["sh"', "config.json: the text ends too early, at line 1 column 27"),
        (b'{\n"a": tru\n}', "config.json: not JSON at line 2 column 6"),
        (b"[]", r"config.json: must hold a JSON object, not \[\]"),
        (b"null", "config.json: must hold a JSON object, not null"),
        (b'{\n\n"a": "\xff"}', "config.json: not UTF-8: byte 0xff at line 3"),
        ('{"a": 1}'.encode("utf-16"), "config.json: not UTF-8: byte 0xff at line 1"),
        ('{"a": 1}'.encode("utf-8-sig"), "config.json: not JSON at line 1 column 1: a byte order mark"),
        (b"[" * 100_000, "config.json: arrays or objects are nested too deeply"),
        (b'{"x":' * 100_000, "config.json: arrays or objects are nested too deeply"),
    ],
)
def test_text_that_is_no_config(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load.load(write(tmp_path, data))
    assert caught.value.where == "config.json"
    assert "\n" not in str(caught.value)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the bundle '.*/none' does not exist"):
        load.load(str(tmp_path / "none"))


def test_bundle_without_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is none in the bundle .*pyruntime spec"):
        load.load(str(tmp_path))


def test_bundle_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        load.load(str(tmp_path / "file"))


def test_config_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config.json' is a directory, not a regular file"):
        load.load(str(tmp_path))


def test_config_that_is_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="is a special file, not a regular file"):
        load.load(str(tmp_path))


def test_config_that_is_a_looping_symlink(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("config.json")
    with pytest.raises(KernelError, match=r"config.json: open\('.*', O_RDONLY\): ELOOP"):
        load.load(str(tmp_path))


def test_config_larger_than_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path, b"{}")
    with open(tmp_path / "config.json", "r+b") as file:
        file.truncate(load.SIZE_LIMIT + 1)  # sparse
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load.load(path)


@pytest.mark.parametrize("bundle", ["a\0b", "a\ud800b"])
def test_a_path_that_no_file_can_have(bundle: str) -> None:
    with pytest.raises(UsageError, match="character that no file name can have"):
        load.load(bundle)


def test_descriptors_are_closed_on_every_way_out(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    load.load(write(tmp_path, b"{}"))
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError):
        load.load(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before
