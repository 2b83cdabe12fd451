"""The report tells every figure, goal and absence, and is complete in itself."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from infra.bench import report
from infra.bench.figures import Figure, Missing, Results, outcomes
from infra.bench.plan import scenarios


def results() -> Results:
    (single, memory) = scenarios("gateway", ["single", "memory"])
    figures = [
        *(
            Figure(
                single.name, who, n, {"rate": rate + n, "p99_ms": 3.5}, ((50.0, 1.0), (99.0, 3.0), (99.99, 40.0 + n))
            )
            for n in (1, 2, 3)
            for who, rate in (("plutus", 9_000), ("kafka-each", 3_000))
        ),
        Figure(memory.name, "plutus", 1, {"largest_mib": 91.5}, ((1.0, 90.0), (2.0, 91.5))),
    ]
    goals = [found for scenario in (single, memory) for found in outcomes(scenario.name, scenario.goals, figures)]
    return Results(figures, goals, [Missing("single", "bento", "no <binary> here")])


def test_the_page_tells_all_and_needs_nothing_else() -> None:
    page = report.html("Gateway", scenarios("gateway", ["single", "memory"]), results())
    assert "plutus rate / kafka-each" in page
    assert "9,002" in page
    assert "NOT MEASURED: bento: no &lt;binary&gt; here" in page
    assert page.count("<svg") == 2
    assert not re.search(r"https?://|src=|href=|@import|url\(", page)


def test_curves_lie_inside_the_picture_and_rise_to_the_right() -> None:
    for text in re.findall(r"<svg.*?</svg>", report.html("x", scenarios("gateway", ["single", "memory"]), results())):
        picture = ElementTree.fromstring(  # noqa: S314 - our own
            re.sub(r"=([\w.-]+)(?=[ />])", r"='\1'", text)
        )
        lines = picture.findall("polyline")
        assert lines
        for line in lines:
            points = [tuple(map(float, point.split(","))) for point in line.get("points", "").split()]
            assert all(0 <= x <= 640 and 0 <= y <= 240 for x, y in points)
            assert points == sorted(points)
            assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)


def test_a_curve_without_extent_is_drawn_too() -> None:
    assert "polyline" in report.svg({"plutus": ((50.0, 2.0),)}, "latency")
    assert "polyline" in report.svg({"plutus": ((1.0, 0.0), (2.0, 0.0))}, "MiB")


def test_the_table_has_a_line_for_each_goal_and_absence() -> None:
    lines = report.table(results())
    assert len(lines) == 1 + len(results().outcomes) + 1
    assert lines[-1] == "NOT MEASURED: single, bento: no <binary> here"
    assert "aim" not in lines[1].rpartition("5 x")[2]  # 3.0 times, where 4 must be and 5 are aimed at
    assert lines[1].endswith("below")
