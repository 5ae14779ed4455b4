"""What the annotators' page is made of; what it does is tested in a browser."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import labeling_app.web
from labeling_app.settings import LabelingConfig
from labeling_app.web.page import build_page, page_mount_options

STATIC = Path(labeling_app.web.__file__).parent / "static"
MODULES = sorted(STATIC.glob("*.js"))


def test_the_page_has_no_gradio_event_and_no_component_that_renders_texts() -> None:
    async def build() -> Any:  # outside of a loop Gradio makes one for itself and leaves it open
        return build_page(LabelingConfig()).get_config_file()

    config = asyncio.run(build())
    assert config["dependencies"] == []
    assert {component["type"] for component in config["components"]} == {"row", "column", "button"}


@pytest.fixture
def site() -> Starlette:
    """A page and something else behind the middleware of the mounted page."""

    async def page(_request: Request) -> Response:
        return HTMLResponse(f"<html><head><title>Grüße</title></head>{'x' * 100_000}</html>")

    async def other(_request: Request) -> Response:
        return JSONResponse({"text": "<head>"})

    middleware = page_mount_options()["app_kwargs"]["middleware"]
    return Starlette(routes=[Route("/", page), Route("/other", other)], middleware=middleware)


def get(site: Starlette, path: str) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(site), base_url="http://test") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_script_and_style_stand_at_the_top_of_the_page_as_served(site: Starlette) -> None:
    response = get(site, "/")
    head = response.text[: response.text.index("<title>")]
    assert re.findall(r'(?:href|src)="\.\./static/([^"]+)"', head) == ["icon.svg", "page.css", "page.js"]
    assert response.text.endswith("<title>Grüße</title></head>" + "x" * 100_000 + "</html>")
    assert int(response.headers["content-length"]) == len(response.content)


def test_what_is_not_the_page_passes_through_unchanged(site: Starlette) -> None:
    assert get(site, "/other").json() == {"text": "<head>"}


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_no_module_parses_html_or_runs_text(module: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|setHTML|srcdoc"
    assert re.findall(forbidden, module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_modules_import_only_modules_that_are_there(module: Path) -> None:
    for name in re.findall(r'from "([^"]+)"', module.read_text(encoding="utf-8")):
        assert name.startswith("./")
        assert (STATIC / name).is_file()
