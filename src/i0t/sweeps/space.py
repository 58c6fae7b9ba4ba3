"""The search space that overrides such as ``optimizer.lr=tag(log, interval(1e-4, 1e-2))`` span.

The syntax is Hydra's: ``a,b,c``, ``choice(…)``, ``range(…)`` and ``interval(…)``; ``tag(log, …)`` makes an interval
logarithmic, ``int(…)`` whole numbers of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from i0t.config_errors import ConfigError


class Trial(Protocol):
    """What suggests values; Optuna's trial is one."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """A whole number, both ends included."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""


class Choices(NamedTuple):
    """A key that takes one of several values, as Hydra writes them.

    Attributes:
        key: Of the override, as typed.
        text: What the user wrote behind it.
        values: What there is to choose from.
    """

    key: str
    text: str
    values: tuple[str, ...]

    def corners(self) -> list[str]:
        """Overrides that try what may be wrong with it: every value."""
        return [f"{self.key}={value}" for value in self.values]

    def suggest(self, trial: Trial) -> str:
        """The override with the value that a trial takes."""
        return f"{self.key}={trial.suggest_categorical(self.key, self.values)}"


class Numbers(NamedTuple):
    """A key that takes a number between two, both included; a whole one where both ends are.

    Attributes:
        key: Of the override, as typed.
        text: What the user wrote behind it.
        low: The smallest value.
        high: The largest value.
        step: Between neighbours, of whole numbers; ``None``: every number in between.
        log: Whether orders of magnitude are equally likely.
    """

    key: str
    text: str
    low: int | float
    high: int | float
    step: int | None
    log: bool

    def corners(self) -> list[str]:
        """Overrides that try what may be wrong with it: both ends."""
        return [f"{self.key}={value!r}" for value in (self.low, self.high)]

    def suggest(self, trial: Trial) -> str:
        """The override with the value that a trial takes."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return f"{self.key}={trial.suggest_int(self.key, self.low, self.high, self.step or 1, self.log)}"
        return f"{self.key}={trial.suggest_float(self.key, float(self.low), float(self.high), log=self.log)!r}"


class Space(NamedTuple):
    """What a search varies, and what it does not.

    Attributes:
        dimensions: Of the search.
        fixed: Overrides that all its jobs share.
    """

    dimensions: tuple[Choices | Numbers, ...]
    fixed: tuple[str, ...]

    def corners(self) -> list[list[str]]:
        """Overrides of jobs in which every choice and both ends of every range stand at least once."""
        sides = [dimension.corners() for dimension in self.dimensions]
        first = [side[0] for side in sides]
        jobs = [first, *([*first[:at], other, *first[at + 1 :]] for at, side in enumerate(sides) for other in side[1:])]
        return [[*self.fixed, *job] for job in jobs]

    def suggest(self, trial: Trial) -> list[str]:
        """The overrides of a trial's job."""
        return [*self.fixed, *(dimension.suggest(trial) for dimension in self.dimensions)]


def read_space(overrides: Iterable[Override]) -> Space:
    """Sorts parsed overrides into what varies and what does not; of two of the same key, the later one counts.

    Raises:
        ConfigError: For a range that holds no number, or a logarithmic one that does not begin above 0; and where
            nothing varies.
    """
    found: dict[str, Choices | Numbers | str] = {}
    for override in overrides:
        found.pop(override.get_key_element(), None)
        found[override.get_key_element()] = _dimension(override) if override.is_sweep_override() else _text(override)
    dimensions = tuple(one for one in found.values() if not isinstance(one, str))
    if not dimensions:
        raise ConfigError("the search varies nothing: give a key several values, optimizer.lr=interval(1e-4,1e-2)")
    return Space(dimensions, tuple(one for one in found.values() if isinstance(one, str)))


def _text(override: Override) -> str:
    assert override.input_line is not None, "parsed from text"
    return override.input_line


def _dimension(override: Override) -> Choices | Numbers:
    key, text, value = override.get_key_element(), _text(override).partition("=")[2], override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        return _checked(Numbers(key, text, value.start, value.end, None, "log" in value.tags))
    if isinstance(value, RangeSweep) and isinstance(value.range(), range):
        values = [int(number) for number in value.range()]
        if not values:
            raise ConfigError(f"{key}={text} holds no number")
        return Numbers(key, text, min(values), max(values), int(abs(value.step)), False)
    return Choices(key, text, tuple(override.sweep_string_iterator()))


def _checked(numbers: Numbers) -> Numbers:
    if numbers.low > numbers.high:
        raise ConfigError(f"{numbers.key}={numbers.text}: the first number must not be above the second")
    if numbers.log and numbers.low <= 0:
        raise ConfigError(f"{numbers.key}={numbers.text}: a logarithmic range must begin above 0")
    return numbers
