"""The app in a process of its own, so that a test can kill it."""

import multiprocessing
from datetime import timedelta
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import NewTask, Store, User

CONFIG = LabelingConfig(title="Support replies", gold_share=0, lease_seconds=600)
QUEUE = CONFIG.queue

# Gradio takes seconds to import: once, in a process out of which each server is forked
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["serving", "gradio", "uvicorn", "labeling_app.web.app", "labeling_app.web.page"])


class App:
    """The server, and its store as another process sees it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = open_store(home)
        self.store.set_guidelines("Rank by **help**.\n\n- right before friendly")
        self.port = 0
        self.process: BaseProcess | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """On the port it had before, if it had one."""
        ours, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=serve, args=(self.home, self.port, theirs))
        self.process.start()
        self.port = ours.recv()

    def kill(self) -> None:
        """As a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.join()

    def stop(self) -> None:
        self.kill()
        self.store.close()

    def add_tasks(self, *tasks: NewTask) -> list[int]:
        added = self.store.add_tasks(tasks, QUEUE)
        assert not added.rejected, added.rejected
        return added.task_ids

    def new_session(self, user: User) -> str:
        """The token of a session."""
        return self.store.write(accounts.open_session, user.id, timedelta(hours=1))


def open_store(home: Path) -> Store:
    return Store.open(home, f"sqlite:///{home / 'labels.db'}", CONFIG.store)


def serve(home: Path, port: int, started: Connection) -> None:
    """In the other process, until it is killed; says which port it has."""
    import uvicorn

    from labeling_app.web.app import create_app
    from labeling_app.web.serve import listen, uvicorn_config

    with open_store(home) as store, listen("127.0.0.1", port) as listener:
        server = uvicorn.Server(uvicorn_config(create_app(store, CONFIG, "accounts")))
        started.send(listener.getsockname()[1])
        server.run(sockets=[listener])
