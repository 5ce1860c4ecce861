"""Reads the query of a list and cuts the page out of it that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from runner.simulator.questions import Refused


class Listed(Protocol):
    """What has a place in a list."""

    @property
    def id(self) -> str: ...


T = TypeVar("T", bound=Listed)


def page(
    things: Sequence[T], query: Mapping[str, str], most: int, usual: int, show: Callable[[T], dict[str, Any]]
) -> dict[str, Any]:
    """One page of a list, by its `limit` and `after`.

    Args:
        things: all of them, in the order in which they are listed.
        most: the largest `limit`.
        usual: the `limit` of a query without one.

    Raises:
        Refused: 400, the limit is none, or nothing on the list has the id `after`.
    """
    limit = query.get("limit", str(usual))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit) <= most):
        message = f"Invalid 'limit': expected an integer from 1 to {most}, but got '{limit}' instead."
        raise Refused(400, message, code="invalid_value", param="limit")
    start = 0
    if (after := query.get("after")) is not None:
        places = [place for place, thing in enumerate(things) if thing.id == after]
        if not places:
            raise Refused(400, f"Invalid 'after': there is no '{after}'.", code="invalid_value", param="after")
        start = places[0] + 1
    end = start + int(limit)
    chosen = [show(thing) for thing in things[start:end]]
    return {
        "object": "list",
        "data": chosen,
        "first_id": chosen[0]["id"] if chosen else None,
        "last_id": chosen[-1]["id"] if chosen else None,
        "has_more": end < len(things),
    }
