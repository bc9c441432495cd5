"""The error of the reporter: something could not be reported or read back."""


class ReportError(Exception):
    """A report or a reading failed. The message says what failed, where, and what to do. It never changes a verdict."""
