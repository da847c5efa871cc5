"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake of the user's: one line that names the value, what is accepted and the next step.

    The command line prints that line and exits with 2; any other exception is ours and keeps its trace.
    """


def in_one_line(error: UserError) -> str:
    """What to tell the user: an error that a Ray task raised arrives with the task's trace, which is left out."""
    return str(getattr(error, "cause", error))
