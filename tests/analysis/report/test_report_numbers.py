import pytest

from analysis.report.numbers import count, fixed, percent, points, significant, times


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.01234, "0.0123"),
        (0.0123449, "0.0123"),
        (12.345, "12.3"),
        (123.45, "123"),
        (1234.6, "1,230"),
        (0.9996, "1.00"),
        (-0.5, "-0.500"),
        (0.00012, "0.000120"),
        (0.000012, "1.20e-05"),
        (999_999.0, "1.00e+06"),
        (0, "0"),
        (None, "n/a"),
    ],
)
def test_significant_digits(value, text):
    assert significant(value) == text


def test_other_formats():
    assert percent(0.5479) == "54.8 %"
    assert percent(0.5479, 0) == "55 %"
    assert points(0.0213) == "2.1 points"
    assert points(-0.0001) == "0.0 points"
    assert count(61440) == "61,440"
    assert fixed(-0.0123) == "-0.012"
    assert fixed(-0.0001) == "0.000"
    assert [times(ratio) for ratio in (1.34, 9.13, 9.97, 38.2, 1234.5)] == ["1.3", "9.1", "10", "38", "1,234"]
    assert [write(None) for write in (percent, points, count, fixed)] == ["n/a"] * 4
