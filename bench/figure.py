"""What a figure is, and its arithmetic: pairs of samples, medians, quartiles, percentiles."""

import math
import random
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

FLOOR = 0.5
"""A sample that ran slower than this share of its side's median says more about the machine than about us."""
RESAMPLES = 200


class Unsteady(Exception):
    """The machine was too busy with something else to tell anything."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure must be: at least, or at most, a bound."""

    sign: str
    bound: float

    def met(self, value: float) -> bool:
        return value >= self.bound if self.sign == "≥" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. The quartiles are of the pairs for a ratio, and of resamples for a percentile."""

    name: str
    value: float
    quartiles: tuple[float, float]
    target: Target | None = None
    unit: str = ""
    """Empty for a ratio, `1/` for one that is read as a fraction, or what `value` is counted in."""
    absolute: Mapping[str, str] = field(default_factory=dict)
    """What was measured, by what it is."""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where nothing was promised."""
        return "" if self.target is None else "met" if self.target.met(self.value) else "missed"


@dataclass(frozen=True, slots=True)
class Sample:
    """So many operations, in so many seconds, for so many seconds of CPU."""

    count: int
    seconds: float
    cpu: float = 0.0

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.count / self.seconds

    @property
    def cost(self) -> float:
        """Seconds of CPU an operation."""
        return self.cpu / self.count


Round = Mapping[str, Sample]
"""A sample of each side, taken one right after the other."""
Take = Callable[[], Awaitable[Sample]]


def steady(rounds: Sequence[Round]) -> list[Round]:
    """The rounds of which every sample came near its side's usual throughput."""
    if not rounds:
        return []
    floors = {side: FLOOR * statistics.median(each[side].rate for each in rounds) for side in rounds[0]}
    return [each for each in rounds if all(each[side].rate >= floor for side, floor in floors.items())]


async def take_rounds(sides: Mapping[str, Take], count: int, tick: Callable[[], None]) -> list[Round]:
    """At least `count` steady rounds. Who begins alternates, so that drift of the machine favours nobody.

    Raises Unsteady when every second round had to be thrown away.
    """
    rounds: list[Round] = []
    names = list(sides)
    while len(kept := steady(rounds)) < count:
        if len(rounds) >= 2 * count:
            raise Unsteady(f"only {len(kept)} of {len(rounds)} rounds were steady; is the machine busy?")
        order = names if len(rounds) % 2 == 0 else names[::-1]
        rounds.append({name: await sides[name]() for name in order})
        tick()
    return kept


def summary(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The median and the quartiles around it."""
    if len(values) == 1:
        return values[0], (values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, (low, high)


def ratios(rounds: Sequence[Round], above: str, below: str, of: Callable[[Sample], float]) -> list[float]:
    """For each round, what `of` gives for one side over what it gives for the other."""
    return [of(each[above]) / of(each[below]) for each in rounds]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return sorted(values)[max(math.ceil(share * len(values)) - 1, 0)]


def resampled(statistic: Callable[..., float], *samples: Sequence[float]) -> tuple[float, float]:
    """Quartiles of a statistic of samples, had they been drawn again (the bootstrap); reproducible."""
    dice = random.Random(0)
    found = [statistic(*(dice.choices(sample, k=len(sample)) for sample in samples)) for _ in range(RESAMPLES)]
    return summary(found)[1]


def shown(value: float, unit: str = "") -> str:
    """A value as people read it."""
    match unit:
        case "":
            return f"{value:.2f}"
        case "1/":
            return f"1/{1 / value:.0f}"
        case "ms" | "µs":
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
        case _:
            return f"{value:,.0f} {unit}"
