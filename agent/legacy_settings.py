"""What the legacy registry tables of all files say together, key by key.

Only keys that containerd reads are taken, in any case it would take them; everything else becomes a
caveat with file and key. Values hold credentials: they are kept out of every text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeAlias

from agent import legacy
from agent.legacy import RegistryTable

#: Where a key stands in the registry table, such as configs, HOST, auth, username; in lower case but for names.
Place: TypeAlias = tuple[str, ...]
_Shape: TypeAlias = "Callable[[object], bool] | Mapping[str, _Shape]"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


#: Stands for any key: the name of a host, a URL, the name of a header.
_ANY = "*"
_AUTH: _Shape = dict.fromkeys(("username", "password", "auth", "identitytoken"), _is_text)
_TLS: _Shape = {**dict.fromkeys(("ca_file", "cert_file", "key_file"), _is_text), "insecure_skip_verify": _is_flag}
_REGISTRY: _Shape = {
    "config_path": _is_text,
    "mirrors": {_ANY: {"endpoint": _is_list_of_texts}},
    "configs": {_ANY: {"auth": _AUTH, "tls": _TLS}},
    "auths": {_ANY: _AUTH},
    "headers": {_ANY: _is_list_of_texts},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The registry tables of one file."""

    path: PurePosixPath
    tables: tuple[RegistryTable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key with the value that counts, None for a table; `keys` are spelled as in the file."""

    path: PurePosixPath
    keys: tuple[str, ...]
    value: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """What was not taken over, or what a person has to know about it; never a value."""

    path: PurePosixPath
    keys: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{legacy.shown_path(self.path)}: {legacy.dotted(self.keys)} {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The settings of all files; where several have one key, that of the last."""

    settings: Mapping[Place, Setting] = field(repr=False)
    #: The files that something to convert was taken from, in the order of reading.
    sources: tuple[PurePosixPath, ...]
    caveats: tuple[Caveat, ...]

    @property
    def certificate_files(self) -> tuple[PurePosixPath, ...]:
        """The files that have to be read before the settings can be converted."""
        places = [("configs", host, "tls", word) for host in self.names("configs") for word in _TLS]  # type: ignore[union-attr]
        found = [self.value(place) for place in places if place[-1].endswith("_file")]
        return tuple(dict.fromkeys(on_node(name) for name in found if name))

    def names(self, table: str) -> tuple[str, ...]:
        """Return the names of what stands in `mirrors`, `configs`, `auths` or `headers`."""
        return tuple(place[1] for place in self.settings if place[0] == table and len(place) == 2)  # noqa: PLR2004

    def value(self, place: Place) -> Any:
        """Return a value, None if there is none."""
        setting = self.settings.get(place)
        return setting.value if setting else None

    def caveat(self, place: Place, text: str) -> Caveat:
        """Return a caveat about a key that is there."""
        setting = self.settings[place]
        return Caveat(path=setting.path, keys=setting.keys, text=text)


def gather(sources: tuple[Source, ...]) -> Gathered:
    """Merge the tables; of two values for one key the later one counts, with a caveat."""
    settings: dict[Place, Setting] = {}
    caveats: list[Caveat] = []
    for source in sources:
        for table in source.tables:
            for found in _read(source.path, table.keys, table.content, _REGISTRY, ()):
                if isinstance(found, Caveat):
                    caveats.append(found)
                    continue
                place, setting = found
                former = settings.get(place)
                if former is not None and former.value != setting.value:
                    text = f"is also set in {legacy.shown_path(setting.path)}, which counts"
                    caveats.append(Caveat(path=former.path, keys=former.keys, text=text))
                settings[place] = setting if former is None or former.value is not None else former
    used = {setting.path for place, setting in settings.items() if place != ("config_path",)}
    paths = tuple(source.path for source in sources if source.path in used)
    return Gathered(settings=settings, sources=paths, caveats=tuple(caveats))


def on_node(name: str) -> PurePosixPath:
    """Return the path of a file as containerd sees it: systemd starts it in ``/``."""
    return PurePosixPath("/") / name


def _read(
    path: PurePosixPath, keys: tuple[str, ...], value: Any, shape: _Shape, place: Place
) -> Iterator[tuple[Place, Setting] | Caveat]:
    """Yield what containerd would read at a key and below, and caveats for the rest."""
    is_right = shape(value) if callable(shape) else isinstance(value, dict)
    if not is_right:
        yield Caveat(path=path, keys=keys, text="is of a type that containerd refuses; not converted")
    elif callable(shape):
        yield place, Setting(path=path, keys=keys, value=value)
    else:
        if place:
            yield place, Setting(path=path, keys=keys)
        for name, inner in value.items():
            word = _word(shape, name)
            if word is None:
                yield Caveat(path=path, keys=(*keys, name), text="is not known; not converted")
            else:
                yield from _read(path, (*keys, name), inner, shape[word], (*place, name if word == _ANY else word))


def _word(shape: Mapping[str, _Shape], name: str) -> str | None:
    """Return how the shape calls a key: containerd 2.x takes any case for its own words."""
    if _ANY in shape:
        return _ANY
    return next((word for word in shape if re.fullmatch(word, name, re.IGNORECASE)), None)
