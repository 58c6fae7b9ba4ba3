"""Which of two numbers is better, and the Pareto front of points that have two of them.

A number's goal is ``lower``, ``higher``, a value that it should come close to, or ``None`` where neither is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

Goal: TypeAlias = str | float | None
LOWER, HIGHER = "lower", "higher"

# By the end of a number's name, the first that fits.
_BY_ENDING: tuple[tuple[str, Goal], ...] = (
    ("_expected", None),  # what theory expects a measured number to be
    ("_chance", None),
    ("_tied", None),
    ("_unpaired", None),
    ("_medr", LOWER),
    ("_neighbors_kept", HIGHER),
)
# By its beginning, the first that fits.
_BY_BEGINNING: tuple[tuple[str, Goal], ...] = (
    ("gap/linear_separability", 0.5),  # guessing; below it each half of the data leans the other way
    ("gap/centroid_distance_unbiased", 0.0),  # its sign is chance
    ("gap/matched_cosine", HIGHER),
    ("gap/image_shift", None),
    ("gap/text_shift", None),
    ("gap/", LOWER),
    ("retrieval", HIGHER),
    ("zeroshot", HIGHER),
    ("caption_correlation/", HIGHER),
    ("caption_preference/", HIGHER),
    ("caption_score/tau", HIGHER),
    ("object_bias/image_contrast", None),
    ("object_bias/text_contrast", None),
    ("object_bias/", 0.0),
    ("class_structure/image_dunn", HIGHER),
    ("class_structure/text_dunn", HIGHER),
)


def goal_of(name: str) -> Goal:
    """Where a number should go.

    Args:
        name: Without split and row.

    Example:
        >>> [goal_of(f"gap/{name}") for name in ("rmg", "linear_separability", "centroid_distance_expected")]
        ['lower', 0.5, None]
        >>> goal_of("retrieval/i2t_r1"), goal_of("retrieval/i2t_medr"), goal_of("entropy/i2t")
        ('higher', 'lower', None)
    """
    for ending, goal in _BY_ENDING:
        if name.endswith(ending):
            return goal
    return next((goal for beginning, goal in _BY_BEGINNING if name.startswith(beginning)), None)


def cost(value: float, goal: Goal) -> float:
    """A number such that less is better.

    Args:
        value: Of a job.
        goal: Of the number.

    Raises:
        ValueError: If the number has no goal.
    """
    if goal is None:
        raise ValueError(f"nothing is better or worse without a goal, got the value {value}")
    if goal == LOWER:
        return value
    if goal == HIGHER:
        return -value
    assert not isinstance(goal, str)
    return abs(value - goal)


def pareto_front(points: Sequence[tuple[float, float]], goals: tuple[Goal, Goal]) -> list[int]:
    """The points that none other beats: none is at least as good in both numbers and better in one.

    Args:
        points: Two numbers each; one with NaN belongs to no front and beats nothing.
        goals: Of the two numbers.

    Returns:
        Their indices, along the first number from its best; points that are equal in both are all there.

    Example:
        >>> pareto_front([(0.1, 0.2), (0.3, 0.9), (0.4, 0.8), (0.3, 0.9)], ("lower", "higher"))
        [0, 1, 3]
    """
    costs = [(cost(x, goals[0]), cost(y, goals[1])) for x, y in points]
    order = sorted(i for i, pair in enumerate(costs) if not any(map(math.isnan, pair)))
    order.sort(key=lambda i: costs[i])
    front: list[int] = []
    for i in order:
        # By the first cost, then the second: a point is beaten unless it improves on the last one of the front.
        if not front or costs[i][1] < costs[front[-1]][1] or costs[i] == costs[front[-1]]:
            front.append(i)
    return front
