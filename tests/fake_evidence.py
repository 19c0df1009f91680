"""Hand-made evidence for ledger rows: a test puts it into `GIVEN`, as a paper's slice would read it from runs."""

GIVEN = []


def evidence(live):
    """What is given; live runs count at profile cpu alone."""
    return [one for one in GIVEN if live or not one.source.startswith("live")]
