"""How an evaluation ends early. It trains nothing: whatever is not finite in it came with the user's input."""

from collections.abc import Iterator
from contextlib import contextmanager

from rlhf.errors import Interrupted, UserError
from rlhf.scoring import NonFiniteError
from rlhf.tracking import Run
from rlhf.workspace import Workspace


@contextmanager
def explained(run: Run, workspace: Workspace) -> Iterator[None]:
    """What ends `run` within the block, as the error that a command ends with.

    Raises:
        UserError: a judge or a model gave numbers that are not finite.
        Interrupted: by Ctrl-C, where typing the same command again goes on from here.
    """
    try:
        yield
    except NonFiniteError as error:
        raise UserError(f"{error}; nothing can be measured with that: mend it or name another one") from error
    except KeyboardInterrupt:
        if not workspace.resumes_itself:
            raise
        raise Interrupted(f"stopped in the middle of {run.stage}; go on with {workspace.how_to_go_on(run)}") from None
