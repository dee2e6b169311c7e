"""JSON merge patch and strategic merge patch over the built-in types that the double serves. Pure."""

from collections.abc import Mapping
from typing import Any

Path = tuple[str, ...]

#: Lists that a strategic merge patch merges by this key; all others it replaces.
_KEYS: Mapping[Path, str] = {
    ("status", "conditions"): "type",
    ("status", "addresses"): "type",
    ("metadata", "ownerReferences"): "uid",
}
#: Lists of plain values that a strategic merge patch adds to.
_SETS = {("metadata", "finalizers"), ("spec", "podCIDRs")}


def merge(old: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7386); neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def merge_strategically(old: Any, patch: dict[str, Any], path: Path = ()) -> dict[str, Any]:
    """Apply a strategic merge patch; neither argument is changed; raises ValueError."""
    merged = _kept(old, patch)
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [each for each in merged.get(name, []) if each not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged_value(merged.get(key), value, (*path, key))
    for key, order in patch.items():
        name = key.removeprefix("$setElementOrder/")
        if name != key and name in merged:
            merged[name] = _ordered(merged[name], order, _KEYS.get((*path, name)))
    return merged


def _kept(old: Any, patch: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(old, dict) or patch.get("$patch") in {"replace", "delete"}:
        return {}
    kept = patch.get("$retainKeys", old)
    return {key: value for key, value in old.items() if key in kept}


def _merged_value(old: Any, new: Any, path: Path) -> Any:
    if isinstance(new, dict):
        return merge_strategically(old, new, path)
    if isinstance(new, list) and path in _KEYS:
        return _merged_list(old or [], new, key=_KEYS[path], path=path)
    if isinstance(new, list) and path in _SETS:
        return [*(old or []), *(each for each in new if each not in (old or []))]
    return new


def _merged_list(old: list[Any], new: list[Any], *, key: str, path: Path) -> list[Any]:
    if {"$patch": "replace"} in new:
        return [each for each in new if "$patch" not in each]
    merged = list(old)
    for each in new:
        if not isinstance(each, dict) or key not in each:
            raise ValueError(f"map: {each} does not contain declared merge key: {key}")
        places = [place for place, other in enumerate(merged) if other.get(key) == each[key]]
        if each.get("$patch") == "delete":
            merged = [other for place, other in enumerate(merged) if place not in places]
        elif places:
            merged[places[0]] = merge_strategically(merged[places[0]], each, path)
        else:
            merged.append(merge_strategically({}, each, path))
    return merged


def _ordered(found: list[Any], order: list[Any], key: str | None) -> list[Any]:
    def identity(each: Any) -> Any:
        return each.get(key) if key and isinstance(each, dict) else each

    places = {identity(each): place for place, each in enumerate(order)}
    listed = sorted((each for each in found if identity(each) in places), key=lambda each: places[identity(each)])
    return [*listed, *(each for each in found if identity(each) not in places)]
