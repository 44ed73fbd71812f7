"""What can be wrong with an expression, and with the traffic that it is asked about."""


class ExpressionInvalid(Exception):
    """An expression that cannot be used.

    `column` counts the characters of the expression from 1. `message` is lower case, without a full stop, and says what
    to write instead.
    """

    def __init__(self, message: str, column: int) -> None:
        super().__init__(f"column {column}: {message}")
        self.message = message
        self.column = column


class TrafficInvalid(Exception):
    """A value that the field `name` cannot hold, or a field that does not exist."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(f"{name}: {message}")
        self.message = message
        self.name = name


class ListInvalid(Exception):
    """A value of a named list that its type does not have. `place` counts the values from 0."""

    def __init__(self, message: str, place: int) -> None:
        super().__init__(message)
        self.message = message
        self.place = place
