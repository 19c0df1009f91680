"""Faster imports of large libraries: a part that takes seconds to build and that nothing here uses is left out."""

import contextlib
import sys
from collections.abc import Iterator

_GRAMMAR = (
    "rfc3987_syntax"  # of internationalised addresses, built when jsonschema is imported; jsonschema works without
)


@contextlib.contextmanager
def without_address_grammar() -> Iterator[None]:
    """Within, jsonschema (behind nbformat, papermill and MONAI) is imported without its check of addresses.

    Examples
    --------
    >>> with without_address_grammar():
    ...     import nbformat
    """
    left_out = _GRAMMAR not in sys.modules
    if left_out:
        sys.modules[_GRAMMAR] = None  # import machinery's word for: not to be had
    try:
        yield
    finally:
        if left_out:
            del sys.modules[_GRAMMAR]
