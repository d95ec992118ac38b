"""auto-iscsi status --metrics: Prometheus' own parser reads the values that were written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from auto_iscsi.admin import metrics

NAMES = st.sampled_from(["target", "portal", "state"])


@given(
    st.lists(
        st.tuples(
            st.dictionaries(
                NAMES,
                st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r")),
            ),
            st.integers(0, 2**40),
        ),
        min_size=1,
    )
)
def test_the_parser_reads_what_was_written(written: list[tuple[dict[str, str], int]]) -> None:
    samples = [metrics.Sample(labels, value) for labels, value in written]
    family = metrics.Metric("auto_iscsi_sessions", "Sessions.", samples)
    text = "".join(f"{line}\n" for line in metrics.lines([family]))
    (read,) = text_string_to_metric_families(text)
    assert (read.name, read.documentation, read.type) == (family.name, "Sessions.", "gauge")
    assert [(dict(sample.labels), sample.value) for sample in read.samples] == written


def test_a_metric_without_samples_is_left_out() -> None:
    assert metrics.lines([metrics.Metric("auto_iscsi_x", "X.", [])]) == []


def test_a_time_keeps_its_fraction() -> None:
    family = metrics.Metric("a_seconds", "A.", [metrics.Sample({}, 1.25), metrics.Sample({}, 2.0)])
    assert metrics.lines([family])[2:] == ["a_seconds 1.250", "a_seconds 2"]
