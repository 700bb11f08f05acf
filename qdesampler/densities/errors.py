"""What can go wrong with the evaluations of a user's function."""

__all__ = ["BudgetError", "EvaluationError", "EvaluationWarning"]


class EvaluationError(RuntimeError):
    """The function cannot be evaluated, or what it returns is of no use; the message says what to do."""


class BudgetError(RuntimeError):
    """The evaluations allowed by `max_evals` are used up before there are draws."""


class EvaluationWarning(UserWarning):
    """Something about the function or its workers that the user should know."""
