"""Types in the API reference without the checks that settings are annotated with."""

import dataclasses
import importlib
import typing

from sphinx.application import Sphinx


def _make_plain(app: Sphinx) -> None:
    for name in ("augmentation", "methods", "networks", "settings"):
        for described in vars(importlib.import_module(f"laperm_lib.paper.{name}")).values():
            if isinstance(described, type) and dataclasses.is_dataclass(described):
                hints = typing.get_type_hints(described.__init__)
                described.__init__.__annotations__ = described.__annotations__ = hints


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _make_plain)
    return {"parallel_read_safe": True}
