"""Who else manages containerd's registry configuration on this node, and whether the agent may do so too."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Manager:
    """Somebody else: a CamelCase word for conditions, and what was found. Not everybody can be worked beside."""

    reason: str
    message: str
    is_final: bool = False


def is_ours_to_manage(managers: Iterable[Manager], *, beside_others: bool) -> bool:
    """Tell whether the agent may write; `beside_others` is an operator's word that the others are taken care of."""
    return all(beside_others and not manager.is_final for manager in managers)
