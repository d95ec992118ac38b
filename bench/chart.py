"""Draw the chart: what does a visit cost, and how do lookups and reports grow with the host?

The chart has two halves, side by side, which pygal draws from rows of the results. Its background
is white, so that it can be read on a dark page, too.
"""

from __future__ import annotations

import xml.etree.ElementTree as etree
from collections.abc import Mapping
from typing import Any

import pygal
from pygal.style import Style

from bench.table import Row

WIDTH, HEIGHT = 430, 260  #: of each half
SVG = "http://www.w3.org/2000/svg"
#: The bars of the first half from below, and the row of each: multiples of a bare login and mount.
VISITS = {
    "the script": "the script's first visit ÷ bare",
    "a whole server": "first visit, a server with 5 volumes ÷ bare",
    "a dirty filesystem": "first visit, a dirty filesystem ÷ bare",
    "a clean filesystem": "first visit ÷ bare",
}
#: The lines of the second half, and the row of each; its medians are for these numbers.
NUMBERS = ("10", "100", "1,000", "10,000")
GROWTH = {
    "status, sessions": "status, 1,000 sessions",
    "reap, sessions": "reap --dry-run, 1,000 sessions",
    "lookup, sessions": "warm lookup, 10 → 1,000 sessions",
    "list, snapshots": "list --offline, 10,000 snapshots",
    "lookup, snapshots": "warm lookup, 10 → 10,000 snapshots",
}
GREY, ORANGE, BLUE = "#6b6b6b", "#c25e00", "#1f5fa8"
COLORS = (ORANGE, "#7a3e9d", GREY, "#0b6e4f", BLUE)


def drawn(rows: Mapping[tuple[str, str], Row]) -> str:
    """Return the chart as SVG, "" if one of its parts was never measured.

    rows: by the name of their part and what they measure.
    """
    if not {"cold", "host"} <= {part for part, _ in rows}:
        return ""
    etree.register_namespace("", SVG)
    size = {"width": f"{2 * WIDTH}", "height": f"{HEIGHT}"}
    image = etree.Element(f"{{{SVG}}}svg", {"viewBox": f"0 0 {2 * WIDTH} {HEIGHT}", **size})
    etree.SubElement(image, f"{{{SVG}}}rect", {**size, "fill": "white"})
    for place, chart in enumerate((visits(rows), growth(rows))):
        half = etree.fromstring(chart.render())
        for parent in list(half.iter()):
            for child in list(parent):
                is_tooltip = child.get("class", "") == "tooltip"
                if is_tooltip or child.tag in (f"{{{SVG}}}script", f"{{{SVG}}}desc"):
                    parent.remove(child)
        half.attrib.update(x=f"{place * WIDTH}", width=f"{WIDTH}", height=f"{HEIGHT}")
        image.append(half)
    return etree.tostring(image, encoding="unicode") + "\n"


def visits(rows: Mapping[tuple[str, str], Row]) -> Any:
    """Draw a bar for each kind of first visit."""
    medians = {name: rows["cold", what].medians for name, what in VISITS.items()}
    ratios = {name: ours / bare for name, (ours, bare) in medians.items()}
    ratios["bare iscsiadm"] = 1.0
    colors = {"the script": ORANGE, "bare iscsiadm": GREY}
    chart = pygal.HorizontalBar(
        **common("A first visit, in bare logins and mounts"),
        show_legend=False,
        show_x_labels=True,
        range=(0, max(ratios.values())),
        x_labels=[f"{name}  {ratio:.1f}" for name, ratio in ratios.items()],
        y_labels=range(0, int(max(ratios.values())) + 1, 2),
        formatter=lambda value: f"{value:.0f}",
    )
    bars = [{"value": ratio, "color": colors.get(name, BLUE)} for name, ratio in ratios.items()]
    chart.add("", bars)
    chart.uuid = "visits"  # or it would be another one each time
    return chart


def growth(rows: Mapping[tuple[str, str], Row]) -> Any:
    """Draw a line for each report and for the lookup: seconds, by how much there is on the host."""
    chart = pygal.Line(
        **common("Seconds, by the number of sessions or snapshots"),
        logarithmic=True,
        range=(0.01, 2.1),
        legend_at_bottom=True,
        legend_at_bottom_columns=3,
        legend_box_size=10,
        truncate_legend=-1,
        x_labels=NUMBERS,
        y_labels=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2),
        formatter=lambda value: f"{value:g}",
    )
    for name, what in GROWTH.items():
        chart.add(name, rows["host", what].medians)
    chart.uuid = "growth"
    return chart


def common(title: str) -> dict[str, Any]:
    """Return what both halves set."""
    style = Style(
        background="white",
        plot_background="white",
        foreground="#333",
        foreground_strong="#111",
        foreground_subtle="#777",
        guide_stroke_color="#ccc",
        major_guide_stroke_color="#ccc",
        guide_stroke_dasharray="1,0",
        major_guide_stroke_dasharray="1,0",
        colors=COLORS,
        font_family="sans-serif",
        title_font_size=13,
        label_font_size=12,
        major_label_font_size=12,
        legend_font_size=12,
        opacity="1",
    )
    return {
        "style": style,
        "title": title,
        "width": WIDTH,
        "height": HEIGHT,
        "js": (),
        "margin": 10,
        "margin_right": 28,
        "margin_bottom": 24,
        "dots_size": 3,
        "stroke_style": {"width": 2},
    }
