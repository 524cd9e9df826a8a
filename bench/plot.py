"""Draws docs/throughput.png: events per second by target, ours beside the best and the worst its client can do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

from bench.report import Figure, figures_of
from bench.servers import TARGETS

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot as plt

PATH = Path(__file__).parent.parent / "docs" / "throughput.png"
_SERIES = (
    ("one call per event", "one call per event, payloads ready", "#c9ced6"),
    ("ours", "docdb-stream, from MongoDB on", "#1f6feb"),
    ("bare client", "bare client at its best, payloads ready", "#f0a35e"),
)
_WIDTH = 0.27


def draw(kept: Mapping[str, Any]) -> Path | None:
    """Draw it from the figures kept; None when some are missing."""
    if not {"drain", *TARGETS} <= kept.keys():
        return None
    drain = figures_of(kept["drain"])[0]
    alone = {target: figures_of(kept[target])[0] for target in TARGETS}
    figure, axes = plt.subplots(figsize=(10, 5.2), dpi=144)
    _bars(axes, alone)
    _lines(axes, drain)
    axes.set_yscale("log")
    rates = [figure.details[series] for figure in alone.values() for series, _, _ in _SERIES]
    axes.set_ylim(min(rates) / 2, 2 * max(*rates, drain.of_value or 0))
    axes.yaxis.set_major_formatter(lambda rate, _: _short(rate))
    axes.set_xlim(-0.5, len(alone) + 0.35)
    axes.set_xticks(range(len(alone)), alone)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel("events per second (logarithmic)")
    axes.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3, frameon=False, fontsize=8.5)
    axes.set_title("Throughput by target: events of about 600 bytes, real local servers", loc="left", fontsize=12)
    figure.text(0.01, 0.005, _machine(kept["drain"]["machine"]), fontsize=7, color="#6b7280")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(PATH)
    plt.close(figure)
    return PATH


def _bars(axes: Any, alone: Mapping[str, Figure]) -> None:
    for number, (series, label, color) in enumerate(_SERIES):
        rates = [figure.details[series] for figure in alone.values()]
        bars_at = [at + (number - 1) * _WIDTH for at in range(len(rates))]
        bars = axes.bar(bars_at, rates, _WIDTH * 0.94, label=label, color=color)
        axes.bar_label(bars, [_short(rate) for rate in rates], padding=2, fontsize=8)


def _lines(axes: Any, drain: Figure) -> None:
    """What reading alone allows, over the whole width."""
    for rate, text in ((drain.of_value or 0.0, "raw drain"), (drain.value, "poller, discarding")):
        axes.axhline(rate, color="#57606a", linewidth=1, linestyle="--", zorder=0)
        axes.annotate(
            f"{text}\n{_short(rate)}",
            (1.0, rate),
            xycoords=axes.get_yaxis_transform(),
            ha="right",
            va="bottom" if text == "raw drain" else "top",
            fontsize=8,
            color="#57606a",
        )


def _short(rate: float) -> str:
    """A rate in few characters: 950, 1.2k, 10k, 120k."""
    return f"{rate:,.0f}" if rate < 1000 else f"{rate / 1000:.3g}k"


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB, {machine['os']}, "
        f"Python {machine['python']}; commit {machine['commit']}, {machine['at'][:10]}"
    )
