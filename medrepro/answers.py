"""What the checks of all chapters' exercises say to a reader."""


def verdict(holds: bool, hint: str) -> bool:
    """Print whether an answer holds, or what to look at, and return it.

    Examples
    --------
    >>> verdict(1 + 1 == 2, "count again")
    Right.
    True
    """
    print("Right." if holds else f"Not yet: {hint}")
    return bool(holds)
