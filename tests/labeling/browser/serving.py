"""The app in a process of its own, so that a test can kill it: `python serving.py HOME PORT` prints the port."""

import os
import signal
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

from labeling_app import accounts
from labeling_app.settings import LabelingConfig
from labeling_app.store import NewTask, Store, User

CONFIG = LabelingConfig(title="Support replies", gold_share=0, lease_seconds=600)
QUEUE = CONFIG.queue


class App:
    """The server, and its store as another process sees it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store.open(home, f"sqlite:///{home / 'labels.db'}", CONFIG.store)
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        self._num_users = 0
        self._task_ids: list[int] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """On the port it had before, if it had one."""
        command = [sys.executable, __file__, str(self.home), str(self.port)]
        # no Hugging Face, no W&B, nobody's proxy: the server has nothing to ask the network
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"no_proxy": "*"})
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """As a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        self.store.close()

    def _end(self, how: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def set_tasks(self, *tasks: NewTask) -> list[int]:
        """These tasks and no others."""
        if self._task_ids:
            self.store.withdraw(self._task_ids)
        added = self.store.add_tasks(tasks, QUEUE)
        assert not added.rejected, added.rejected
        self._task_ids = added.task_ids
        return added.task_ids

    def new_user(self) -> tuple[User, str]:
        """Somebody new, and the token of a session of theirs."""
        self._num_users += 1
        user = self.store.add_user(f"annotator-{self._num_users}")
        return user, self.new_session(user)

    def new_session(self, user: User) -> str:
        return self.store.write(accounts.open_session, user.id, timedelta(hours=1))


def main() -> None:
    import uvicorn

    from labeling_app.web.app import create_app
    from labeling_app.web.serve import listen, uvicorn_config

    home, port = Path(sys.argv[1]), int(sys.argv[2])
    with Store.open(home, f"sqlite:///{home / 'labels.db'}", CONFIG.store) as store:
        app = create_app(store, CONFIG, "accounts")
        with listen("127.0.0.1", port) as listener:
            assert isinstance(listener, socket.socket)
            print(listener.getsockname()[1], flush=True)
            uvicorn.Server(uvicorn_config(app)).run(sockets=[listener])


if __name__ == "__main__":
    main()
