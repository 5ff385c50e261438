"""
Facts to pages: in, the name of a template beside this module and what it speaks of; out, HTML.

Whatever a fact holds stays text: each is escaped, and control characters are made visible. Pages
extend base.html, which has the look, and forbids the browser to fetch anything.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import words

__all__ = ["filled"]


def filled(template: str, **facts: object) -> str:
    """
    The page that a template makes of the facts: one file that needs no other, and no network.

    Filters of a template are the functions of `pipeline.report.words`. A fact that is missing is
    an error of the template, not a gap in the page.

    Raises:
        jinja2.TemplateError: there is no such template, or it asks for what is not among the facts.
    """
    return _environment().get_template(template).render(facts)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline", "report"),
        autoescape=True,
        auto_reload=False,  # they lie where they were installed
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalized,
    )
    environment.filters.update({name: getattr(words, name) for name in words.__all__})
    return environment


def _finalized(fact: object) -> object:
    return words.shown(fact) if isinstance(fact, str) and not isinstance(fact, Markup) else fact
