"""What instance types cost, by the table that Libcloud brings. It may be older than Amazon's."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

__all__ = ["price_of"]


def price_of(instance_type: str, region: str) -> float | None:
    """US dollars an hour for Linux on demand; None if the table does not say."""
    prices = _table().get(instance_type, {})
    price = prices.get(region) if isinstance(prices, Mapping) else None
    return float(price) if isinstance(price, (int, float)) and price > 0 else None


@functools.cache
def _table() -> Mapping[str, Any]:
    from libcloud.pricing import get_pricing

    table: Mapping[str, Any] = get_pricing("compute", "ec2_linux") or {}
    return table
