"""Results of an analysis as tables in a notebook."""

from analysis.report.tables import show


def test_a_row_for_each_entry_and_a_column_for_each_number():
    shown = show({"es": {"norm": 7.2912, "kind": {"mlp": 3.0}}, "grpo": {"norm": None, "path": [1, 2]}})
    assert shown.columns == ["", "norm", "kind.mlp"]
    assert shown.rows == [["es", "7.29", "3.00"], ["grpo", "–", "–"]] or shown.rows[1][1] == shown.rows[1][2]
    assert str(shown).splitlines()[1].split() == ["es", "7.29", "3.00"]


def test_flat_results_and_lists_of_rows():
    assert show({"total": 500, "low": 0.223}).rows == [["total", "500"], ["low", "0.223"]]
    assert show([{"step": 1}, {"step": 2}]).rows == [["0", "1"], ["1", "2"]]


def test_words_are_escaped():
    page = show({"<b>": {"said": "</td><script>"}})._repr_html_()
    assert "<script>" not in page and "&lt;b&gt;" in page and page.count("<td>") == 2
