"""The server under load: `rlhf label serve` in a process of its own, killed and started again."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

STARTS_WITHIN_SECONDS = 120
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Outage:
    """From the kill to the first reply after it, in `time.perf_counter` seconds."""

    began: float
    ended: float = float("inf")


class Server:
    """Starts, kills, restarts; the figures of all its lives are kept.

    Attributes:
        outages: when there was no server because it was killed.
        cpu_seconds: of the processor, all lives together, without what starting cost.
        peak_rss_mib: the most memory that one of them had resident.
    """

    def __init__(self, home: Path, database_url: str | None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.outages: list[Outage] = []
        self.cpu_seconds = 0.0
        self.peak_rss_mib = 0.0
        self.log = home / "server.log"
        config = home / "labeling.yaml"
        # an address for people: the app then asks for accounts, as it does for other machines
        config.write_text(f"port: {self.port}\npublic_url: http://127.0.0.1:{self.port}\n", encoding="utf-8")
        rlhf = str(Path(sys.executable).with_name("rlhf"))
        self._command = [rlhf, "--home", str(home), "label", "serve", "--config", str(config)]
        self._env = {name: value for name, value in os.environ.items() if name != "RLHF_DATABASE_URL"}
        if database_url is not None:
            self._env["RLHF_DATABASE_URL"] = database_url
        self._process: subprocess.Popen[bytes] | None = None
        self._cpu_at_start = 0.0

    async def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=log, env=self._env)
        give_up = time.monotonic() + STARTS_WITHIN_SECONDS
        while not await self._answers():
            if self._process.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"the server did not start:\n{self.log.read_text()}")
            await asyncio.sleep(0.02)
        self._cpu_at_start = self._cpu()

    async def kill_and_restart(self) -> None:
        """kill -9, in the midst of whatever it does, then start another."""
        outage = Outage(time.perf_counter())
        self._note_figures()
        self.outages.append(outage)
        self._end(signal.SIGKILL)
        await self.start()
        outage.ended = time.perf_counter()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        if self._process is not None and self._process.poll() is None:
            self._note_figures()
            self._end(signal.SIGTERM)

    def was_out(self, began: float, ended: float) -> bool:
        """Whether a request that took from `began` to `ended` met an outage."""
        return any(began < outage.ended and ended > outage.began for outage in self.outages)

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(timeout=60)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            writer.write(b"GET /login HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nconnection: close\r\n\r\n" % self.port)
            return (await reader.read()).startswith(b"HTTP/1.1 200")
        except OSError:
            return False
        finally:
            writer.transport.abort()

    def _note_figures(self) -> None:
        self.cpu_seconds += self._cpu() - self._cpu_at_start
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text().partition("VmHWM:")[2]
        self.peak_rss_mib = max(self.peak_rss_mib, int(status.split()[0]) / 1024)

    def _cpu(self) -> float:
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
