"""The one exception that means: the user can mend this."""


class UserError(ValueError):
    """A mistake of the user's: one line that names the value, what is accepted and the next step.

    The command line prints that line and exits with 2; any other exception is ours and keeps its trace.
    """
