"""The annotators' page: Gradio lays it out, the modules under static/ fill it.

The page has no Gradio event and no gr.HTML. So there is no handler to post to past our own API, no template that model
text could reach, and the content security policy needs no `unsafe-eval` (gr.HTML compiles its templates with
`Function`). Everything an annotator sees comes from the JSON API, which authorises each call, and is built from text
nodes by static/page.js.

`page_mount_options` also puts the script and the style sheet into the head of the page as served: Gradio adds its own
`head` only after its bundle has loaded, and the first task is fetched meanwhile.
"""

from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labeling_app.settings import LabelingConfig

_HEAD = (
    b'<link rel="icon" type="image/svg+xml" href="../static/icon.svg">'
    b'<link rel="stylesheet" href="../static/page.css">'
    b'<script type="module" src="../static/page.js"></script>'
)
_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_MONO_FONTS = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]


def build_page(config: LabelingConfig) -> gr.Blocks:
    """The annotators' page, to be mounted with `page_mount_options()` where ../static and ../api are ours."""
    page: gr.Blocks = gr.Blocks(title=config.title, analytics_enabled=False, fill_width=True)
    with page:
        with gr.Row(elem_id="page-header"):
            gr.Column(elem_id="page-title", min_width=0)
            gr.Column(elem_id="page-progress", min_width=0)
            gr.Column(elem_id="page-clock", min_width=0)
            with gr.Row(elem_id="page-menu"):
                gr.Button("Guidelines", elem_id="open-guidelines", size="sm")
                gr.Button("Earlier tasks", elem_id="open-history", size="sm")
                gr.Button("Keys", elem_id="open-help", size="sm")
        with gr.Row(elem_id="page-body"):
            gr.Column(elem_id="page-surface", min_width=0)
            gr.Column(elem_id="page-guidelines", min_width=0)
    return page


def page_mount_options() -> dict[str, Any]:
    """Keywords of `gr.mount_gradio_app` for this page alone; `app.CLOSED` has those that hold for every page."""
    return {
        "app_kwargs": {"middleware": [Middleware(HeadStart)]},
        "theme": gr.themes.Base(font=_FONTS, font_mono=_MONO_FONTS),
    }


class HeadStart:
    """ASGI middleware that puts `_HEAD` into the one HTML page of a mounted Gradio app."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def send_with_head(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and _is_html(message):
                start = message
            elif start is None:
                await send(message)
            else:
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    await _send_page(start, body.replace(b"<head>", b"<head>" + _HEAD, 1), send)

        await self.app(scope, receive, send_with_head)


def _is_html(start: Message) -> bool:
    content_type: bytes = dict(start["headers"]).get(b"content-type", b"")
    return content_type.startswith(b"text/html")


async def _send_page(start: Message, page: bytes, send: Send) -> None:
    headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
    await send({**start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
    await send({"type": "http.response.body", "body": page})
