"""The browser of this machine: in, a page on disk; out, how it looks, and what it asked for."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

__all__ = ["DESK", "PHONE", "Heard", "browsing", "shown"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
PHONE = ViewportSize(width=360, height=740)
DESK = ViewportSize(width=1280, height=900)


@dataclass
class Heard:
    """What a page asked for and complained about."""

    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@contextmanager
def shown(
    browser: Browser, path: Path, size: ViewportSize, **context: Any
) -> Iterator[tuple[Page, Heard]]:
    """A page of a file, in a window of its own."""
    with browser.new_context(viewport=size, **context) as window:
        page, heard = window.new_page(), Heard()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: heard.requests.append(request.url))
        page.on("console", lambda message: heard.complaints.append(message.text))
        page.on("pageerror", lambda error: heard.complaints.append(str(error)))
        page.goto(path.as_uri())
        yield page, heard


@contextmanager
def browsing() -> Iterator[Browser]:
    """
    The browser, with nothing of anybody's in it; without one the test is skipped.

    Playwright keeps a loop in this thread until the end: no run can have one of its own meanwhile.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        if os.environ.get("TESTS_BROWSER") == "required":
            pytest.fail(f"none of {', '.join(BROWSERS)} is installed, and one has to be")
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
