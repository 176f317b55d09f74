"""Polygons in longitude and latitude, cut where they cross the antimeridian, as section 3.1.9 of RFC 7946 (2016) asks.

A ring is first unrolled: its longitudes go on beyond 180 degrees. A ring around a pole does not close then, and is closed along the
pole::

    lat  90  ┌──────────┐  along the pole
             │          │
             ╰──╮  ╭────╯  the ring, 360 degrees long
                ╰──╯

What lies beyond 180 degrees is then cut off and moved by a full turn.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cut_at_antimeridian", "unrolled"]

TURN = 360.0


def unrolled(points_N2: NDArray[np.float64], is_long_N: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """Return a ring (longitude, latitude) whose longitudes do not jump, closed along the pole if it goes around one.

    Args:
        points_N2: closed, degrees; each edge is the shorter way around the earth.
        is_long_N: edges that are the longer way, as they are drawn; None: none.

    Example:
        >>> unrolled(np.array([[179, 0], [-179, 0], [-179, 1], [179, 0]], float))[:, 0].tolist()
        [179.0, 181.0, 181.0, 179.0]
    """
    steps = np.diff(points_N2[:, 0])
    short = steps - TURN * np.round(steps / TURN)
    steps = short if is_long_N is None else np.where(is_long_N, steps, short)
    ring_N2 = np.stack([points_N2[0, 0] + np.append(0, np.cumsum(steps)), points_N2[:, 1]], axis=1)
    turns = round((ring_N2[-1, 0] - ring_N2[0, 0]) / TURN)
    if not turns:
        ring_N2[-1] = ring_N2[0]
        return ring_N2
    pole = 90.0 if points_N2[:, 1].mean() > 0 else -90.0
    return np.concatenate([ring_N2, [[ring_N2[-1, 0], pole], [ring_N2[0, 0], pole]], ring_N2[:1]])


def cut_at_antimeridian(shell_N2: NDArray[np.float64], holes: list[NDArray[np.float64]]) -> Any:
    """Return a polygon of unrolled rings as a polygon or multipolygon between -180 and 180 degrees."""
    import shapely

    shape = shapely.make_valid(shapely.Polygon(shell_N2), method="structure", keep_collapsed=False)
    west, _, east, _ = shapely.bounds(shape).tolist()
    for hole_N2 in holes:  # a hole is unrolled from its own first point
        hole = shapely.make_valid(shapely.Polygon(hole_N2), method="structure", keep_collapsed=False)
        first, _, last, _ = shapely.bounds(hole).tolist()
        for turns in range(int(np.floor((west - last) / TURN)), int(np.ceil((east - first) / TURN)) + 1):
            shape = shapely.difference(shape, _moved(hole, turns))
    windows = range(int(np.floor((west + 180) / TURN)), int(np.ceil((east + 180) / TURN)))
    parts = [_moved(shapely.clip_by_rect(shape, -180 + TURN * at, -91, 180 + TURN * at, 91), -at) for at in windows]
    polygons = [part for part in shapely.get_parts(shapely.get_parts(parts)) if part.area > 0]
    return polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)


def _moved(shape: Any, turns: int) -> Any:
    import shapely

    return shapely.transform(shape, lambda points_N2: points_N2 + np.array([TURN * turns, 0.0])) if turns else shape
