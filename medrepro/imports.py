"""Faster imports of large libraries: parts that take seconds to import and that nothing here uses are left out."""

import contextlib
import sys
from collections.abc import Iterator

_GRAMMAR = "rfc3987_syntax"  # of internationalised addresses, built when jsonschema is imported


@contextlib.contextmanager
def without(*modules: str) -> Iterator[None]:
    """Within, imports of some modules fail, as where they are not installed; those imported before stay."""
    left_out = [name for name in modules if name not in sys.modules]
    sys.modules |= dict.fromkeys(left_out)  # None is the import machinery's word for: not to be had
    try:
        yield
    finally:
        for name in left_out:
            del sys.modules[name]


def without_address_grammar() -> contextlib.AbstractContextManager[None]:
    """Within, jsonschema (behind nbformat, papermill and MONAI) is imported without its check of addresses.

    Examples
    --------
    >>> with without_address_grammar():
    ...     import nbformat
    """
    return without(_GRAMMAR)
