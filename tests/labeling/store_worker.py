"""Run as a program: several people who work on one store, in threads of a process of its own.

Every acknowledged answer is written to standard output as one line, `user task submission key`; a claim that was told
"nothing" as `user nothing`. Ends when everybody was told so.
"""

import sys
import threading
from pathlib import Path

from label_tools import as_shown

from labeling_app.store import Store


def work(store: Store, user_id: int, run: str) -> None:
    while (claimed := store.claim(user_id, "default")) is not None:
        assert claimed.lease is not None
        key = f"{run} {user_id} {claimed.task_id}"
        receipt = store.submit(user_id, claimed.lease, key, as_shown(claimed), 1)
        say(f"{user_id} {claimed.task_id} {receipt.submission_id} {key}")
    say(f"{user_id} nothing")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(home: str, url: str, run: str, *user_ids: str) -> None:
    with Store.open(Path(home), url) as store:
        say("ready")
        sys.stdin.readline()
        threads = [threading.Thread(target=work, args=(store, int(user_id), run)) for user_id in user_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
