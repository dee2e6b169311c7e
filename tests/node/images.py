"""Tiny OCI images, written by hand, each with content of its own."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

OCI = "application/vnd.oci.image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An OCI layout on disk and the name under which registries serve its image."""

    layout: Path
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The reference without its registry."""
        return f"{self.repository}:{self.tag}"


def write(folder: Path, *, repository: str, tag: str = "v1") -> Image:
    """Write a layout with one image, whose one layer holds one file that names it."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    layer = _layer(f"{repository}:{tag}\n".encode())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": _blob(blobs, f"{OCI}.config.v1+json", _json(config)),
        "layers": [_blob(blobs, f"{OCI}.layer.v1.tar", layer)],
    }
    entry = _blob(blobs, f"{OCI}.manifest.v1+json", _json(manifest))
    index = {
        "schemaVersion": 2,
        "manifests": [{**entry, "annotations": {"org.opencontainers.image.ref.name": tag}}],
    }
    (folder / "index.json").write_bytes(_json(index))
    (folder / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return Image(layout=folder, repository=repository, tag=tag)


def _layer(content: bytes) -> bytes:
    """Return a tar with one file."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("name")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    return archive.getvalue()


def _blob(blobs: Path, media_type: str, content: bytes) -> dict[str, str | int]:
    """Store a blob and return its descriptor."""
    digest = hashlib.sha256(content).hexdigest()
    (blobs / digest).write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode()
