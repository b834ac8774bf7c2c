"""Places of labels that must not overlap."""

from __future__ import annotations


def apart(wanted: dict[int, float], heights: dict[int, float]) -> dict[int, float]:
    """Places as near as possible to those wanted at which labels of these heights do not overlap, order kept."""
    order = sorted(wanted, key=lambda i: (wanted[i], -i))
    places: list[float] = []
    for rank, i in enumerate(order):
        below = places[rank - 1] + (heights[order[rank - 1]] + heights[i]) / 2 if rank else -1.0
        places.append(max(wanted[i], below))
    ceiling = 1.0 + 0.5 * heights[order[-1]]
    for rank in range(len(order) - 1, -1, -1):
        half = heights[order[rank]] / 2
        places[rank] = min(places[rank], ceiling - half)
        ceiling = places[rank] - half
    return dict(zip(order, places, strict=True))
