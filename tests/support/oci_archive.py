"""An image made on the spot for engines, so that none is pulled: a tar archive of an OCI image layout.

With the `manifest.json` of `docker save` beside the layout's index, so that Docker loads it, too.
See image-spec: image-layout.md, manifest.md, config.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # uname's words -> Go's


def write_archive(archive: Path, name: str, rootfs: Path, command: list[str]) -> None:
    """Pack `rootfs` as the only layer of an image called `name`, such as "example.test/busybox:latest"."""
    layer = layer_of(rootfs)
    config = to_json(
        {
            "architecture": ARCHITECTURES[os.uname().machine],
            "os": "linux",
            "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}"]},
        }
    )
    manifest = to_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", config),
            "layers": [descriptor("layer.v1.tar", layer)],
        }
    )
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [descriptor("manifest.v1+json", manifest) | {"annotations": names}]}
    saved = [{"Config": blob_name(config), "RepoTags": [name], "Layers": [blob_name(layer)]}]
    with tarfile.open(archive, "w") as tar:
        add(tar, "oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))
        add(tar, "index.json", to_json(index))
        add(tar, "manifest.json", to_json(saved))
        for blob in (config, manifest, layer):
            add(tar, blob_name(blob), blob)


def layer_of(rootfs: Path) -> bytes:
    """A directory as a tar archive whose files are root's."""

    def owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(rootfs, ".", filter=owned_by_root)
    return buffer.getvalue()


def descriptor(kind: str, blob: bytes) -> dict[str, Any]:
    """What points to a blob (image-spec: descriptor.md)."""
    media_type = f"application/vnd.oci.image.{kind}"
    return {"mediaType": media_type, "digest": f"sha256:{digest(blob)}", "size": len(blob)}


def blob_name(blob: bytes) -> str:
    """Where the layout keeps a blob."""
    return f"blobs/sha256/{digest(blob)}"


def digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()


def to_json(value: object) -> bytes:
    return json.dumps(value).encode()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file to an archive."""
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
