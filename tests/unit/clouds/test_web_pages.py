"""An answer that is a web page is told by its title."""

from __future__ import annotations

import pytest

from pelagos.clouds.libcloud.failures import http_failure
from pelagos.clouds.pages import without_page

SERVER = """<!DOCTYPE HTML>
<html lang="en">
    <head><meta charset="utf-8"><title>Error
 response</title></head>
    <body><h1>Error response</h1><p>Error code: 501</p></body>
</html>
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SERVER, "a web page answers: Error response"),
        ("<html><body><h1>503 <b>Busy</b> &amp; away</h1>", "a web page answers: 503 Busy & away"),
        ("<html><body>nothing", "a web page answers"),
        (f"<html><title>{'long ' * 50}</title>", f"a web page answers: {('long ' * 50)[:79]}…"),
        ("the image <ami-1> does not exist", "the image <ami-1> does not exist"),
        ("", ""),
    ],
)
def test_its_title_alone_is_told(text: str, told: str) -> None:
    assert without_page(text) == told


def test_an_error_of_a_status_is_one_short_line() -> None:
    error = http_failure(501, SERVER, effect=False, what="list servers")
    assert str(error) == "list servers: a web page answers: Error response (HTTP 501)"
