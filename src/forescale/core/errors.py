"""Errors that are the user's to mend. The command line prints their one sentence and exits with status 2."""


class UserError(Exception):
    """Bad input. The message is one sentence that says what is wrong and what to do about it.

    Not a ValueError, which the flag parser would catch and print as a box of its own.
    """


class CorruptArtifact(UserError):
    """A file on disk is not what its manifest says it is."""
