"""Suggest what the user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 30


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a name that is not among `known`: the nearest one, or what there is."""
    names = list(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(names)}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)
    if close:
        return f"did you mean {_either([folded[match] for match in close])}?"
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"there are {', '.join(f'`{candidate}`' for candidate in names[:_SHOWN])}{more}"


def _either(names: list[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"
