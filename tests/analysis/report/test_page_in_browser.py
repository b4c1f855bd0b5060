"""The page in a real browser."""

import pytest


pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_page_opens_without_an_error_or_a_request(built, open_page):
    visit = open_page(built / "report" / "index.html")
    assert visit.page.title()
    assert (visit.console, visit.requests) == ([], [])
