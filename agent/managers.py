"""Who else manages containerd's registry configuration on this node, and whether the agent may do so too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """Somebody else: a CamelCase word for conditions, and what was found. Not everybody can be worked beside."""

    reason: str
    message: str
    is_final: bool = False


#: Somebody who was there counts until nobody has been found for this long: bashible, for one, takes its
#: steps away before it writes them anew.
GONE_SETTLE_S = 2.0


class Presence:
    """Who manages the node besides the agent, as readings at different times say it."""

    def __init__(self) -> None:
        """Nobody was seen yet."""
        self._seen: tuple[Manager, ...] = ()
        self._gone_since: float | None = None

    def settle(self, found: tuple[Manager, ...], *, now_s: float) -> tuple[Manager, ...]:
        """Return who counts as there after one more reading."""
        if found or not self._seen:
            self._seen, self._gone_since = found, None
        elif self._gone_since is None:
            self._gone_since = now_s
        elif now_s - self._gone_since >= GONE_SETTLE_S:
            self._seen, self._gone_since = (), None
        return self._seen

    @property
    def look_in_s(self) -> float | None:
        """Seconds until a reading would settle it."""
        return GONE_SETTLE_S if self._gone_since is not None else None
