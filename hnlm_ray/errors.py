"""The one exception that means: the user can mend this; and how a command ends with it."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """A mistake of the user's: one line that names the value, what is accepted and the next step.

    The command line prints that line and exits with 2; any other exception is ours and keeps its trace.
    """


def exit_code(command: Callable[[], int | None]) -> int:
    """Run a command; its own exit code (none: 0), 2 after the user's mistake, told in one line, or 130 after Ctrl-C."""
    try:
        return command() or 0
    except UserError as error:
        # what a Ray task raised arrives with the task's trace around it
        print(f"hnlm: {getattr(error, 'cause', error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nhnlm: interrupted; nothing complete is lost: the same command goes on from here", file=sys.stderr)
        return 130
