"""Tiny OCI images, written by hand, each with content of its own."""

import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Mapping
from contextlib import closing
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


def upload(image: Image, port: int) -> None:
    """Push an image to a registry that speaks plain HTTP and asks for no password: many at little cost."""
    (entry,) = json.loads((image.layout / "index.json").read_bytes())["manifests"]
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10.0)) as connection:
        for blob in (image.layout / "blobs" / "sha256").iterdir():
            if not entry["digest"].endswith(blob.name):
                place = _send(connection, "POST", f"/v2/{image.repository}/blobs/uploads/")
                _send(connection, "PUT", f"{place}&digest=sha256:{blob.name}", blob.read_bytes())
        manifest = (image.layout / "blobs" / entry["digest"].replace(":", "/")).read_bytes()
        _send(connection, "PUT", f"/v2/{image.repository}/manifests/{image.tag}", manifest, entry["mediaType"])


def _send(
    connection: http.client.HTTPConnection,
    method: str,
    url: str,
    body: bytes = b"",
    content_type: str = "application/octet-stream",
) -> str:
    """Send a part of an image; return where to go on."""
    connection.request(method, url, body, {"Content-Type": content_type})
    answer = connection.getresponse()
    answer.read()
    if answer.status >= http.HTTPStatus.BAD_REQUEST:
        raise RuntimeError(f"{method} {url}: {answer.status}")
    return answer.headers["Location"]


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
