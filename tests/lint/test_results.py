"""Do bench/RESULTS.md and the chart show the results that the last `make bench` kept?"""

from __future__ import annotations

from bench import results


def test_the_shown_results_are_the_kept_ones() -> None:
    shown = results.shown(results.read())
    assert set(shown) == {results.RESULTS, results.CHART}
    for path, text in shown.items():
        assert path.read_text() == text, f"{path.name}: run make bench"
