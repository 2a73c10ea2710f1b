"""Errors that are the user's to mend, each beside its field, and those that are not."""

from __future__ import annotations

from collections.abc import Mapping


class FieldErrors(ValueError):
    """
    What is wrong with a form, by field.

    Parameters
    ----------
    errors : dict of str to str
        Name of the field -> what to do about it; ``form`` stands for the whole.
    status : int
        HTTP status that says the same to a program.
    """

    def __init__(self, errors: Mapping[str, str], status: int = 400) -> None:
        super().__init__("; ".join(f"{name}: {text}" for name, text in errors.items()))
        self.errors, self.status = dict(errors), status


class BusyError(RuntimeError):
    """The server cannot take this now: the queue or the disk is full, or the database locked."""
