"""What every page keeps, whatever facts are put into it."""

import pytest
from jinja2 import TemplateNotFound, TemplateRuntimeError, UndefinedError

from pipeline.report.templates import filled


def test_a_page_without_a_title_is_not_made() -> None:
    """The look by itself is no page: what extends it has to say what it is about."""
    with pytest.raises(TemplateRuntimeError, match="title"):
        filled("base.html")


def test_a_fact_that_is_missing_is_an_error() -> None:
    """A page with a gap where a number should stand is not made."""
    with pytest.raises(UndefinedError):
        filled("morning.html")


def test_a_template_that_is_not_there_is_an_error() -> None:
    """Only what lies beside the program is a template."""
    for name in ("nothing.html", "../standing.py", "/etc/passwd"):
        with pytest.raises(TemplateNotFound):
            filled(name)
