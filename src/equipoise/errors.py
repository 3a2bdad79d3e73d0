"""What can go wrong through no bug of ours: each error says what is wrong, where, and what to do.

The command line prints one line and exits with code 2. Anything that is not an `EquipoiseError` is a bug and keeps its
traceback.
"""

__all__ = ["BalanceError", "DataError", "EquipoiseError", "RecipeError", "RunError", "ServiceError"]


class EquipoiseError(Exception):
    """Base class of every error that a user can cause and mend."""


class RecipeError(EquipoiseError):
    """The recipe cannot be used: an unknown key, a wrong value, an impossible combination."""


class DataError(EquipoiseError):
    """The data cannot be used: a file, a column or too many rows are missing or unusable."""


class BalanceError(EquipoiseError):
    """The tasks' losses cannot be balanced: not finite, unknown, or not connected to what is shared."""


class RunError(EquipoiseError):
    """A run folder cannot be read, written or continued."""


class ServiceError(EquipoiseError):
    """The service cannot be started or a request cannot be answered."""
