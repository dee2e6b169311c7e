"""base64 as Go reads it: Python is more lenient even with `validate`, which lets one `=` too many pass."""

from __future__ import annotations

import base64
import binascii


def canonical_base64(text: str) -> bytes | None:
    """Return the decoded bytes, or None when `text` is not the one right spelling of them."""
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if base64.b64encode(decoded).decode() == text else None
