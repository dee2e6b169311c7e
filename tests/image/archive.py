"""An image as it lies in an OCI archive."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast


class Archive:
    """The one image of an archive."""

    def __init__(self, path: Path) -> None:
        """`path` is a tar with an OCI layout."""
        self._path = path
        with tarfile.open(path) as tar:
            (entry,) = self._json(tar, "index.json")["manifests"]
            self.manifest = self._json(tar, _blob(entry))
            self.config = self._json(tar, _blob(self.manifest["config"]))
        self.version = str(self.config["config"]["Labels"]["org.opencontainers.image.version"])

    def files(self, *, first_layer: int = 0) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
        """Yield every member of every layer with its content; the base image is layer 0."""
        with tarfile.open(self._path) as tar:
            for layer in self.manifest["layers"][first_layer:]:
                with tarfile.open(fileobj=tar.extractfile(_blob(layer)), mode="r|gz") as members:
                    yield from ((member, _content(members, member)) for member in members)

    @property
    def compressed_bytes(self) -> int:
        """What a node pulls."""
        return sum(layer["size"] for layer in self.manifest["layers"])

    @staticmethod
    def _json(tar: tarfile.TarFile, name: str) -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads(_content(tar, tar.getmember(name))))


def _blob(descriptor: dict[str, Any]) -> str:
    return f"blobs/{descriptor['digest'].replace(':', '/')}"


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member) if member.isfile() else None
    return content.read() if content else b""
