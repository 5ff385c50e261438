"""What every page keeps, whatever facts are put into it."""

import pytest
from jinja2 import TemplateRuntimeError

from pipeline.report.templates import filled


def test_a_page_without_a_title_is_not_made() -> None:
    """The look by itself is no page: what extends it has to say what it is about."""
    with pytest.raises(TemplateRuntimeError, match="title"):
        filled("base.html")
