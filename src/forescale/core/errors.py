"""Errors that are the user's to mend. The command line prints their one sentence and exits with status 2."""


class UserError(ValueError):
    """Bad input. The message is one sentence that says what is wrong and what to do about it."""


class CorruptArtifact(UserError):
    """A file on disk is not what its manifest says it is."""
