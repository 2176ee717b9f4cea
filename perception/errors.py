"""The one exception that users are meant to read."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input, in one sentence: what was wrong, what was expected, how to fix it.

    Commands print the sentence and exit with status 2; the job runner writes it into the item's manifest line.
    """


class PromptTooLongError(UserError):
    """A text has more tokens than its encoder takes; `fact` says which, for callers with another way out."""

    def __init__(self, fact: str) -> None:
        super().__init__(f"{fact}; shorten it, or pass truncate=True to cut it")
        self.fact = fact

    def __reduce__(self) -> tuple[type, tuple[str]]:  # pickled by worker processes
        return type(self), (self.fact,)
