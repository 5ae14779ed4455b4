"""A browser's share of HTTP/1.1 on one kept connection, as cheap as can be: it runs on the cores of the server."""

import asyncio
from typing import Any

import orjson


class Gone(Exception):
    """The connection ended before the reply was there: whether the server did anything is not known."""


class Connection:
    """One connection to the server, opened when it is needed and again after it was lost.

    Args:
        port: on this machine.
        token: of the session.
    """

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        origin = f"127.0.0.1:{port}"
        self._head = (
            f" HTTP/1.1\r\nhost: {origin}\r\norigin: http://{origin}\r\ncookie: rlhf_session={token}\r\n"
            "content-type: application/json\r\ncontent-length: "
        ).encode()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON of the reply.

        Raises:
            Gone: there is no server, or it went away.
        """
        try:
            reader, _ = await self._send(path, body)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
            content = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.abort()
            raise Gone from error
        status = int(head[9:12])
        return status, orjson.loads(content) if b"application/json" in head else content.decode()

    async def post_and_leave(self, path: str, body: bytes, after_seconds: float) -> None:
        """Send a request and end the connection without waiting for the reply."""
        try:
            await self._send(path, body)
            await asyncio.sleep(after_seconds)
        except OSError:
            pass
        self.abort()

    def abort(self) -> None:
        """End the connection at once; nothing more is read from it."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _send(self, path: str, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        request = b"POST %s%s%d\r\n\r\n%s" % (path.encode(), self._head, len(body), body)
        self._streams[1].write(request)
        return self._streams
