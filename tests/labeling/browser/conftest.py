"""A real Chromium on the real page, on the real server, on the real store."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from annotator import Annotator
from serving import App

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

WINDOW = {"width": 1280, "height": 800}


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    app = App(tmp_path)
    app.start()
    yield app
    app.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser with a fresh profile. It is closed with the module: its event loop would be in others' way."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is installed, and $CHROMIUM is not set")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def sit_down(app: App, browser: Any) -> Iterator[Callable[..., Annotator]]:
    """Somebody new at a browser of their own, logged in; nothing may have gone wrong in the page at the end."""
    annotators: list[Annotator] = []

    def sit_down(open_page: bool = True, **options: Any) -> Annotator:
        context = browser.new_context(**{"viewport": WINDOW, **options})
        annotator = Annotator(app, context)
        annotators.append(annotator)
        if open_page:
            annotator.open()
        return annotator

    yield sit_down
    for annotator in annotators:
        annotator.context.close()
    assert [problem for annotator in annotators for problem in annotator.problems] == []
