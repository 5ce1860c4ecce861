"""Amounts of money, as people write them."""

from __future__ import annotations

from math import floor, log10


def usd(amount: float) -> str:
    """Return an amount in dollars: to a hundredth of a cent, and small ones to two digits; from $100 on to a cent."""
    if amount >= 100:
        return f"${amount:,.2f}"
    if not 0 < amount < 0.001:
        return f"${amount:.4f}"
    whole, _, decimals = f"{amount:.{1 - floor(log10(amount))}f}".partition(".")
    return f"${whole}.{decimals.rstrip('0').ljust(4, '0')}"
