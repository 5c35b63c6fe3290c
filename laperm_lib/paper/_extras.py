"""Packages that come with an optional extra of `laperm_lib`, and how to install what is missing."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import in this context what an extra installs: where it is missing, the error says how."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "laperm_lib":
            raise
        raise ImportError(
            f'{package} is not installed. Install it with: pip install "laperm-lib[{name}]"',
            name=package,
        ) from error
