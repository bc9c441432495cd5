"""The one error of the reporter's own: something could not be reported, or not be read back."""


class ReportError(Exception):
    """What could not be done, where, and what to do. It never changes a verdict."""
