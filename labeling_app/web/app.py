"""The app as a whole: our API and login pages, Gradio's two pages behind a guard, the gate before everything."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from labeling_app.settings import LabelingConfig
from labeling_app.store import (
    BadAnswer,
    Conflict,
    Disabled,
    LeaseLost,
    NotStored,
    NotYours,
    Quarantined,
    Role,
    Store,
    StoreError,
    UnknownTask,
    UnknownUser,
)
from labeling_app.web import replies
from labeling_app.web.api import Api
from labeling_app.web.guard import GradioGuard
from labeling_app.web.login import Login
from labeling_app.web.passwords import Passwords
from labeling_app.web.replies import Refused, as_json
from labeling_app.web.security import Gate, Mode, Sessions, Site

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"

SWEEP_SECONDS = 30.0

STATUS: dict[type[StoreError], int] = {
    NotYours: 403,
    Quarantined: 403,
    Disabled: 401,
    UnknownUser: 401,
    UnknownTask: 404,
    Conflict: 409,
    LeaseLost: 409,
    BadAnswer: 422,
    NotStored: 503,
}


def create_app(
    store: Store, config: LabelingConfig, mode: Mode = "loopback", *, passwords: Passwords | None = None
) -> FastAPI:
    """The ranking app on this store.

    Args:
        store: stays open as long as the app runs, and is not closed by it.
        config: what people see.
        mode: loopback is for one person on this machine, who comes in by a link; accounts is for several.
        passwords: how they are hashed.

    Raises:
        UserError: the config does not say where people find the app.
    """
    site = Site.of(config, mode)
    sessions = Sessions(store)
    login = Login(store, config, site, sessions, passwords or Passwords())
    api = Api(store, config, sessions, login, mode)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=_sweeping(store))
    app.state.sessions = sessions
    app.router.routes += [*api.routes, *login.routes]
    app.router.routes.append(Route("/favicon.ico", _icon, methods=["GET"]))
    app.router.routes.append(Route("/manifest.json", _manifest_of(config), methods=["GET"]))
    app.router.routes.append(Mount("/static", _Static(directory=STATIC)))
    _inside_a_loop(lambda: _mount_gradio(app, store, config, sessions))
    for kind in (StoreError, DBAPIError, Refused, HTTPException):
        app.add_exception_handler(kind, _answer_error)
    app.add_middleware(Gate, site=site)
    return app


def _mount_gradio(app: FastAPI, store: Store, config: LabelingConfig, sessions: Sessions) -> None:
    # Set before Gradio is imported: it would ask the network for its newest version.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr

    from labeling_app.web.dashboard import build_dashboard, dashboard_mount_options
    from labeling_app.web.page import build_page, page_mount_options

    def mount(path: str, blocks: gr.Blocks, options: dict[str, Any], role: Role | None) -> None:
        gr.mount_gradio_app(app, blocks, path, **CLOSED | options)
        mounted = app.router.routes[-1]
        assert isinstance(mounted, Mount)
        mounted.app = GradioGuard(mounted.app, sessions, role)

    mount("/label", build_page(config), page_mount_options(), None)
    mount("/admin", build_dashboard(store, config), dashboard_mount_options(), "admin")


def _inside_a_loop(build: Callable[[], None]) -> None:
    """Gradio makes an event loop for each lock of a page that is built, and closes none, unless one is running."""

    async def build_in_loop() -> None:
        build()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with contextlib.closing(asyncio.new_event_loop()) as loop:
            loop.run_until_complete(build_in_loop())
    else:
        build()


CLOSED: dict[str, Any] = {
    "footer_links": [],
    "run_history": False,
    "ssr_mode": False,
    "show_error": False,
    "allowed_paths": [],
    "enable_monitoring": False,
    "mcp_server": False,
    "pwa": False,
    "max_file_size": 0,
}
"""How both pages are mounted: nothing that Gradio opens by default."""


async def _icon(_request: Request) -> Response:
    return FileResponse(STATIC / "icon.svg", headers={"cache-control": "max-age=86400"})


def _manifest_of(config: LabelingConfig) -> Callable[[Request], Awaitable[Response]]:
    """What a phone needs to put the app among its others; Gradio's pages ask for it at this address."""
    icon = {"src": "/static/icon.svg", "sizes": "any", "type": "image/svg+xml"}
    manifest = {"name": config.title, "start_url": "/label/", "display": "minimal-ui", "icons": [icon]}

    async def answer(_request: Request) -> Response:
        return as_json(manifest, headers={"content-type": "application/manifest+json"})

    return answer


class _Static(StaticFiles):
    """Our own files; browsers ask each time whether they are still the same."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


def _sweeping(store: Store) -> Any:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep_for_ever(store))
        yield
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper

    return lifespan


async def _sweep_for_ever(store: Store) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            await store.call("sweep")
        except NotStored as error:  # those who answer are told; this goes on when the database is back
            logger.warning("leases whose time is up could not be ended: %s", error)
        except Exception:  # a mistake of ours is no reason to end no lease ever again
            logger.exception("leases whose time is up could not be ended")


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, Refused):
        return replies.error(request, error.status, error.code, error.message, error.headers)
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return replies.error(request, 404, "not_found", "There is nothing at this address.")
        return replies.error(request, error.status_code, "refused", str(error.detail), error.headers)
    if isinstance(error, StoreError):
        status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 409)
        if status == 503:
            logger.error("%s %s: %s", request.method, request.url.path, error)
        return replies.error(request, status, error.code, str(error), {"retry-after": "5"} if status == 503 else {})
    logger.error("%s %s: %s", request.method, request.url.path, error)
    message = "The database cannot be reached. Nothing was saved; please try again."
    return replies.error(request, 503, NotStored.code, message, {"retry-after": "5"})
