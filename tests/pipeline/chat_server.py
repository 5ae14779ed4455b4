"""A real HTTP server on this machine that speaks OpenAI's chat API, and misbehaves as it is told to."""

import json
import socket
import struct
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None cuts the connection."""


def completion(*texts: str) -> Reply:
    """A good reply with these texts."""
    choices = [{"index": at, "message": {"role": "assistant", "content": text}} for at, text in enumerate(texts)]
    return 200, {}, json.dumps({"object": "chat.completion", "choices": choices}).encode()


def failure(status: int, message: str = "no", **headers: str) -> Reply:
    """An error as OpenAI words it."""
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class ChatServer:
    """Answers with `reply(number of the request, its body)`; keeps what it was asked, and with which headers."""

    def __init__(self, reply: Callable[[int, dict[str, Any]], Reply]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    outer.requests.append(body)
                    outer.headers.append(dict(self.headers))
                    outer.paths.append(self.path)
                    number = len(outer.requests)
                made = reply(number, body)
                if made is None:
                    # a reset, not an orderly end
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.close_connection = True
                    self.connection.close()
                    return
                status, headers, content = made
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that has given up is no news."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        """Nobody listens there any more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
