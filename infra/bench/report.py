"""What came of a run, for people: a table of lines, and one HTML page that needs nothing beside itself. Pure but `write`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

from infra.bench.figures import Curve, Figure, Results
from infra.bench.plan import Scenario

_WIDTH, _HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 8, 10, 34
_COLOURS: Final = ("#0b6e4f", "#c8553d", "#2b59c3", "#8f5fb8", "#8a6d1f")
_TICKS: Final = 4
_TOLD: Final = ("rate", "cpu_us", "p50_ms", "p99_ms", "largest_mib", "cold_rate", "wal_bytes")
_STYLE: Final = """\
body{font:15px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#1c1e21;background:#fff}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.15rem .8rem .15rem 0;border-bottom:1px solid #e3e5e8}
th:first-child,td:first-child{text-align:left}
h2{margin:2.2rem 0 .3rem}svg{max-width:100%;height:auto}.below{color:#b3261e}.aim,.must{color:#0b6e4f}
.note{color:#5b6168}@media(prefers-color-scheme:dark){body{color:#e6e7e9;background:#16181b}
th,td{border-color:#33373c}svg text{fill:#c9ccd1}.note{color:#9aa0a8}}"""


def medians(results: Results) -> list[str]:
    """The medians over the rounds of what everybody is compared by, a line for each contestant of a scenario."""
    rows: list[tuple[str, ...]] = [("scenario", "who", *_TOLD)]
    for scenario in dict.fromkeys(figure.scenario for figure in results.figures):
        for who, of in _by_who([figure for figure in results.figures if figure.scenario == scenario]).items():
            rows.append((scenario, who, *(_median_of(of, name) for name in _TOLD)))
    return _aligned(rows)


def table(results: Results) -> list[str]:
    """The goals, a line each; then what was not measured."""
    rows: list[tuple[str, ...]] = [("scenario", "compared", "median", "low", "high", "wanted", "")]
    for outcome in results.outcomes:
        told = outcome.as_object("")
        numbers = tuple(f"{told[name]:g}" for name in ("median", "low", "high"))
        rows.append((outcome.scenario, outcome.goal.text(), *numbers, outcome.goal.wanted(), outcome.verdict))
    return [*_aligned(rows), *(f"NOT MEASURED: {each.scenario}, {each.who}: {each.why}" for each in results.missing)]


def write(folder: Path, name: str, title: str, scenarios: Sequence[Scenario], results: Results) -> Path:
    """The page, in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.html"
    page.write_text(html(title, scenarios, results), encoding="utf-8")
    return page


def html(title: str, scenarios: Sequence[Scenario], results: Results) -> str:
    """The page."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        "<meta name=viewport content='width=device-width,initial-scale=1'>",
        f"<title>Plutus: {escape(title)}</title><style>{_STYLE}</style><h1>{escape(title)}</h1>",
        "<p class=note>Everybody ran in turn on one machine, which the load generator shares. Ratios are taken within a "
        "round; the median of the rounds counts. Figures of different runs do not compare.</p>",
    ]
    for scenario in scenarios:
        parts += _scenario(scenario, results)
    return "\n".join(parts)


def _scenario(scenario: Scenario, results: Results) -> Iterator[str]:
    figures = [figure for figure in results.figures if figure.scenario == scenario.name]
    yield f"<h2>{escape(scenario.title)}</h2>"
    goals = [outcome for outcome in results.outcomes if outcome.scenario == scenario.name]
    if goals:
        yield "<table><tr><th>compared<th>median<th>spread<th>wanted<th></tr>"
        for outcome in goals:
            low, high = min(outcome.rounds), max(outcome.rounds)
            yield (
                f"<tr><td>{escape(outcome.goal.text())}<td>{_number(outcome.median)}"
                f"<td>{_number(low)} to {_number(high)}<td>{escape(outcome.goal.wanted())}"
                f"<td class={outcome.verdict or 'note'}>{outcome.verdict}</tr>"
            )
        yield "</table>"
    if figures:
        yield from _medians(figures)
        curves = {who: _middle_curve(of) for who, of in _by_who(figures).items()}
        if scenario.axis and any(curves.values()):
            yield svg({who: curve for who, curve in curves.items() if curve}, scenario.axis)
    for missing in results.missing:
        if missing.scenario == scenario.name:
            yield f"<p class=note>NOT MEASURED: {escape(missing.who)}: {escape(missing.why)}</p>"


def _medians(figures: Sequence[Figure]) -> Iterator[str]:
    names = list(dict.fromkeys(name for figure in figures for name in figure.values))
    yield "<table><tr><th>median of the rounds" + "".join(f"<th>{escape(name)}" for name in names) + "</tr>"
    for who, of in _by_who(figures).items():
        cells = "".join(f"<td>{_median_of(of, name)}" for name in names)
        yield f"<tr><td>{escape(who)}{cells}</tr>"
    yield "</table>"


def _median_of(figures: Sequence[Figure], name: str) -> str:
    found = [figure.values[name] for figure in figures if name in figure.values]
    return _number(median(found)) if found else ""


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _by_who(figures: Sequence[Figure]) -> dict[str, list[Figure]]:
    found: dict[str, list[Figure]] = {}
    for figure in figures:
        found.setdefault(figure.who, []).append(figure)
    return found


def _middle_curve(figures: Sequence[Figure]) -> Curve:
    """The curve of the middle round, by its last value."""
    curves = sorted((figure.curve for figure in figures if figure.curve), key=lambda curve: curve[-1][1])
    return curves[len(curves) // 2] if curves else ()


def svg(curves: dict[str, Curve], axis: str) -> str:
    """Curves in one picture: latencies over percentiles (both on scales that show the tail), or a course over seconds."""
    latency = axis == "latency"
    across = _Scale(
        [x for curve in curves.values() for x, _ in curve], _LEFT, _WIDTH - _RIGHT, _tail if latency else _same
    )
    up = _Scale(
        [y for curve in curves.values() for _, y in curve] + ([] if latency else [0.0]),
        _HEIGHT - _BOTTOM,
        _TOP,
        math.log10 if latency else _same,
    )
    parts = [f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width={_WIDTH} height={_HEIGHT} role=img>"]
    for y in up.ticks():
        parts.append(
            f"<line x1={_LEFT} x2={_WIDTH - _RIGHT} y1={up(y):.1f} y2={up(y):.1f} stroke='#8884'/>"
            f"<text x={_LEFT - 6} y={up(y) + 4:.1f} font-size=11 text-anchor=end>{_number(y)}</text>"
        )
    for x in (50.0, 90.0, 99.0, 99.9) if latency else across.ticks():
        parts.append(
            f"<text x={across(x):.1f} y={_HEIGHT - _BOTTOM + 16} font-size=11 text-anchor=middle>{_number(x)}</text>"
        )
    unit = ("ms over percentile", "") if latency else (f"{axis} over seconds", "")
    parts.append(f"<text x={_LEFT} y={_HEIGHT - 4} font-size=11>{escape(unit[0])}</text>")
    for number, (who, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in curve)
        parts.append(f"<polyline fill=none stroke='{colour}' stroke-width=2 points='{points}'/>")
        parts.append(
            f"<text x={_LEFT + 10} y={_TOP + 14 + 15 * number} font-size=12 style='fill:{colour}'>{escape(who)}</text>"
        )
    return "".join([*parts, "</svg>"])


class _Scale:
    """Values to a range of pixels, on a scale of its own."""

    def __init__(self, values: Sequence[float], first: float, last: float, by: Callable[[float], float]) -> None:
        self._by = by
        self._low, self._high = min(values), max(values)
        self._from, self._to = by(self._low), by(self._high)
        self._first, self._last = first, last

    def __call__(self, value: float) -> float:
        share = (self._by(value) - self._from) / (self._to - self._from) if self._to > self._from else 0.5
        return self._first + share * (self._last - self._first)

    def ticks(self) -> list[float]:
        """Some values, evenly spread in pixels."""
        if self._by is math.log10:
            return [10 ** (self._from + (self._to - self._from) * n / _TICKS) for n in range(_TICKS + 1)]
        return [self._low + (self._high - self._low) * n / _TICKS for n in range(_TICKS + 1)]


def _tail(percent: float) -> float:
    """99 is as far from 90 as 99.9 from 99."""
    return -math.log10(1 - min(percent, 99.995) / 100)


def _same(value: float) -> float:
    return value


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
