"""What was measured: samples taken in turns, figures made of them, and the table."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

HEADER = ("figure", "unit", "agent", "floor", "ratio", "the floor is")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table; `value` and `floor` were measured in the same run."""

    name: str
    unit: str
    value: float
    floor: float
    floor_is: str
    samples: int

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.value / self.floor:.1f}"
        return self.name, self.unit, _number(self.value), _number(self.floor), ratio, self.floor_is


def in_turns(runs: int, *actions: Callable[[], float]) -> list[list[float]]:
    """Sample the actions in turns, every other round backwards; a first round warms up and is dropped."""
    samples: list[list[float]] = [[] for _ in actions]
    for number in range(runs + 1):
        pairs = list(zip(actions, samples, strict=True))
        for action, seen in reversed(pairs) if number % 2 else pairs:
            seen.append(action())
    return [seen[1:] for seen in samples]


def ms(action: Callable[[], object]) -> float:
    """Run an action and return how many milliseconds it took."""
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def figures(
    name: str,
    unit: str,
    samples: Sequence[float],
    floors: Mapping[str, Sequence[float]],
    *,
    statistic: Callable[[Sequence[float]], float] = statistics.median,
) -> list[Figure]:
    """Make one figure for each floor."""
    value, count = statistic(samples), len(samples)
    return [
        Figure(name=name, unit=unit, value=value, floor=statistic(floor), floor_is=floor_is, samples=count)
        for floor_is, floor in floors.items()
    ]


def p99(samples: Sequence[float]) -> float:
    """Return the nearest-rank percentile: a value that was really seen."""
    return sorted(samples)[-(-len(samples) * 99 // 100) - 1]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Align rows, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(_aligned, row, widths)).rstrip() for row in rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Make the same table for docs/performance.md."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    numbers = {index for row in rows[1:] for index, cell in enumerate(row) if _is_number(cell)}
    rule = "|".join("---:" if index in numbers else "---" for index in range(len(rows[0])))
    return "\n".join((head, f"|{rule}|", *body))


def _is_number(cell: str) -> bool:
    return cell.replace(".", "").isdigit()


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if _is_number(cell) else cell.ljust(width)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
