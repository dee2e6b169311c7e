"""What is known about the node's containerd: its flavour and version, as values.

Sources for the version borders: the project's notes on containerd 1.5 to 2.3, read from its sources
and run against recording registries.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Self

_VERSION = re.compile(r"(?:containerd://)?v?(\d+)\.(\d+)(?:\.(\d+))?")


class Flavour(Enum):
    """Whose build of containerd: they differ in how hosts.toml carries credentials and rewrites."""

    DECKHOUSE = "deckhouse"
    K3S = "k3s"
    STOCK = "stock"


@dataclass(frozen=True, slots=True, order=True)
class ContainerdVersion:
    """A containerd version, ordered; distribution suffixes are dropped."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``1.7.24``, ``v2.1.9``, ``1.7.24~ds1-6``, ``containerd://1.7.23-k3s2``; raises ValueError."""
        match = _VERSION.match(text.strip())
        if match is None:
            raise ValueError("not a containerd version, expected for example 1.7.24")
        return cls(int(match[1]), int(match[2]), int(match[3] or 0))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Containerd:
    """The runtime that will read the files. An unknown version is taken for the oldest supported."""

    flavour: Flavour
    version: ContainerdVersion | None = None

    @property
    def name(self) -> str | None:
        """What tells the version, and k3s' builds from others; None when the version is not known."""
        return f"{self.version}{'-k3s' if self.flavour is Flavour.K3S else ''}" if self.version else None

    def is_known_before(self, border: ContainerdVersion) -> bool:
        """Tell whether this containerd is certainly older than `border`."""
        return self.version is not None and self.version < border

    def is_known_from(self, border: ContainerdVersion) -> bool:
        """Tell whether this containerd is certainly `border` or newer."""
        return self.version is not None and self.version >= border


#: First release that reads hosts.toml the way everything here relies on.
OLDEST_SUPPORTED = ContainerdVersion(1, 6, 0)
WILDCARD_SINCE = ContainerdVersion(1, 6, 17)
IPV6_REFERENCE_SINCE = ContainerdVersion(1, 7, 0)
#: Also in the later 2.0 releases; what 2.0.0 to 2.0.6 do not know, they do not read either.
DIAL_TIMEOUT_SINCE = ContainerdVersion(2, 0, 7)
#: Before, a file that is imported replaces the whole table of a plugin.
DEEP_MERGE_SINCE = ContainerdVersion(2, 0, 0)
#: From here on, `registry.configs.*.tls` is not read any more.
LEGACY_TLS_UNTIL = ContainerdVersion(2, 0, 0)
#: Before, token servers do not get the Authorization header of hosts.toml.
TOKEN_HEADER_SINCE = ContainerdVersion(2, 1, 0)
REFERRERS_SINCE = ContainerdVersion(2, 2, 0)
#: Its TOML parser (go-toml v1) fails on an escaped double quote in a key, seen on 1.6.20 and 1.7.24.
QUOTED_KEY_SINCE = ContainerdVersion(2, 0, 0)
