"""Settings and runs of a paper that does not exist, with the face of a slice's ``experiments.py``."""

from medrepro.runs import Run

PROFILES = {"smoke": {"device": "cpu", "count": 2}, "cpu": {"device": "cpu", "count": 3}}


def runs(notebook, profile, *, seed=0, data="phantom"):
    return [Run("tests.fake_runs:add", {"a": seed, "b": number}) for number in range(PROFILES[profile]["count"])]


def recorded(notebook):
    return [Run("tests.fake_runs:add", {"a": 100, "b": number}) for number in range(4)]
