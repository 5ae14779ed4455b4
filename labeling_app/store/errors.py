"""Why the store says no. The message is for the person; `code` is for programs."""

from rlhf.errors import UserError


class StoreError(UserError):
    """The store did not do it, and nothing has changed."""

    code = "refused"


class NotYours(StoreError):
    """The lease is another person's, or nobody's."""

    code = "not_yours"


class LeaseLost(StoreError):
    """The time was up and somebody else has been given the task."""

    code = "lease_lost"


class Conflict(StoreError):
    """It was already answered, or the key was used for something else."""

    code = "conflict"


class Quarantined(StoreError):
    """This person's answers are not taken any more."""

    code = "quarantined"


class Disabled(StoreError):
    """This account is closed."""

    code = "disabled"


class NotStored(StoreError):
    """The database could not be written: it is not known to be stored; try again with the same key."""

    code = "not_stored"


class UnknownTask(StoreError):
    """There is no such task, or this person never had it."""

    code = "unknown_task"


class UnknownUser(StoreError):
    """There is nobody of that name or number."""

    code = "unknown_user"


class BadAnswer(StoreError):
    """The answer does not fit the task."""

    code = "bad_answer"
