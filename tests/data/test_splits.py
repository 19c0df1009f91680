"""Folds: the paper's printed sizes, indices and sums; and that no group is in two parts under the grouped rule."""

import numpy as np
import pytest

from medrepro.data.splits import folds, near_duplicate_groups, thumbnails


def all_tested_once(parts, n):
    return np.array_equal(np.sort(np.concatenate([fold["test"] for fold in parts])), np.arange(n))


@pytest.mark.parametrize(
    ("name", "n", "tests", "trains", "num_val"),
    [
        ("isic18", 2594, [519, 519, 519, 519, 518], [1868, 1868, 1868, 1868, 1869], 207),
        ("kvasir", 1000, [200] * 5, [720] * 5, 80),
    ],
)
def test_the_authors_contiguous_folds_have_the_papers_sizes(name, n, tests, trains, num_val):
    parts = folds(name, n, rule="authors")
    assert [len(fold["test"]) for fold in parts] == tests
    assert [len(fold["train"]) for fold in parts] == trains
    assert [len(fold["val"]) for fold in parts] == [num_val] * 5
    assert all_tested_once(parts, n)
    assert all(np.all(np.diff(fold["test"]) == 1) for fold in parts)


@pytest.mark.parametrize(
    ("name", "n", "shared", "last"),
    [("kvasir", 1000, (920, 999), (720, 799)), ("isic18", 2594, (2387, 2593), (1869, 2075))],
)
def test_the_authors_validation_set_is_the_same_in_four_folds(name, n, shared, last):
    parts = folds(name, n, rule="authors")
    ends = [(int(fold["val"][0]), int(fold["val"][-1])) for fold in parts]
    assert ends == [shared] * 4 + [last]


def test_the_authors_busi_folds_are_those_of_the_paper():
    parts = folds("busi", ["benign"] * 437 + ["malignant"] * 210, rule="authors")
    assert [len(fold["test"]) for fold in parts] == [130, 130, 129, 129, 129]
    assert [len(fold["train"]) for fold in parts] == [413, 413, 414, 414, 414]
    assert [len(fold["val"]) for fold in parts] == [104] * 5
    assert [fold["test"][:5].tolist() for fold in parts] == [
        [1, 7, 11, 15, 18],
        [14, 19, 21, 24, 25],
        [6, 12, 17, 32, 36],
        [2, 3, 4, 5, 10],
        [0, 8, 9, 13, 16],
    ]
    assert [int(fold["test"].sum()) for fold in parts] == [40517, 41418, 43461, 42390, 41195]
    assert all_tested_once(parts, 647)
    for fold in parts:
        assert len(np.unique(np.concatenate(list(fold.values())))) == 647


def uneven_groups(n=120, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.sort(rng.integers(0, 60, n))
    return rng.choice(["benign", "malignant"], n, p=[0.7, 0.3]), rng.permutation(groups)


@pytest.mark.parametrize("num_folds", [2, 5])
@pytest.mark.parametrize("name", ["busi", "kvasir", "phantom"])
def test_no_group_is_in_two_parts_of_a_grouped_fold(name, num_folds):
    labels, groups = uneven_groups()
    parts = folds(name, labels, groups=groups, rule="grouped", num_folds=num_folds)
    assert len(parts) == num_folds
    assert all_tested_once(parts, 120)
    for fold in parts:
        members = [set(groups[fold[part]]) for part in ("train", "val", "test")]
        assert not members[0] & members[1]
        assert not members[0] & members[2]
        assert not members[1] & members[2]
        assert sorted(np.concatenate(list(fold.values()))) == list(range(120))
        assert len(fold["val"]) / (120 - len(fold["test"])) == pytest.approx(0.2, abs=0.07)


def test_grouped_folds_balance_the_labels():
    labels, groups = uneven_groups(600)
    share = np.mean(labels == "malignant")
    for fold in folds("busi", labels, groups=groups):
        assert np.mean(labels[fold["test"]] == "malignant") == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("rule", ["authors", "grouped"])
def test_folds_are_deterministic_and_follow_the_seed(rule):
    labels, groups = uneven_groups()

    def tests(seed):
        parts = folds("busi", labels, groups=groups, rule=rule, seed=seed)
        return [part.tolist() for fold in parts for part in fold.values()]

    assert tests(3) == tests(3)
    assert tests(3) != tests(4)


def test_images_that_look_alike_share_a_group():
    rng = np.random.default_rng(0)
    scenes = rng.random((4, 3, 64, 64), np.float32)
    again = scenes[[1]] * 0.7 + 0.1 + 0.01 * rng.standard_normal((1, 3, 64, 64))  # brighter, with noise
    groups = near_duplicate_groups(np.concatenate([scenes, again]))
    assert groups.tolist() == [0, 1, 2, 3, 1]


def test_known_groups_are_joined_with_near_duplicates_across_chains():
    scenes = np.random.default_rng(1).random((5, 40, 40))
    images = scenes[[0, 1, 2, 0, 4]]  # image 3 repeats image 0
    assert near_duplicate_groups(images, groups=["a", "b", "c", "b", "d"]).tolist() == [0, 0, 1, 0, 2]


def test_constant_images_are_no_duplicates():
    assert near_duplicate_groups(np.stack([np.zeros((8, 8)), np.ones((8, 8))])).tolist() == [0, 1]


def test_near_duplicates_agree_with_a_plain_count_over_pairs():
    rng = np.random.default_rng(2)
    base = rng.random((30, 32, 32))
    images = base[rng.integers(0, 30, 60)] + 0.05 * rng.standard_normal((60, 32, 32))
    groups = near_duplicate_groups(images)
    flat = images.reshape(60, -1)
    for i in range(60):
        for j in range(i):
            if np.corrcoef(flat[i], flat[j])[0, 1] > 0.985:
                assert groups[i] == groups[j]
    assert len(set(groups.tolist())) >= 20


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 50), (20, 32)])
def test_thumbnails_average_boxes(height, width):
    image = np.random.default_rng(0).random((1, height, width))
    # brute force: repeat pixels until the boxes fit, then average
    fine = np.repeat(np.repeat(image, 32, axis=1), 32, axis=2)
    brute = fine.reshape(1, 32, height, 32, width).mean(axis=(2, 4))
    assert np.allclose(thumbnails(image), brute, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rule": "random"}, "expected authors or grouped"),
        ({"groups": None, "rule": "grouped"}, "none given: pass the data set's groups"),
        ({"groups": [1, 2]}, "2 given"),
        ({"num_folds": 1}, "num_folds is 1"),
        ({"groups": [0] * 20}, "1 groups"),
        ({"name": "busi", "labels": ["a"] * 18 + ["b"] * 2, "rule": "authors"}, "smallest class has 2"),
    ],
)
def test_impossible_folds_are_refused(arguments, words):
    arguments = {"name": "busi", "labels": [0, 1] * 10, "groups": list(range(20)), **arguments}
    with pytest.raises(ValueError, match=words):
        folds(arguments.pop("name"), arguments.pop("labels"), **arguments)


def test_images_of_another_shape_or_number_of_groups_are_refused():
    with pytest.raises(ValueError, match="expected \\(n, C, H, W\\)"):
        thumbnails(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="2 images and 1 groups"):
        near_duplicate_groups(np.zeros((2, 8, 8)), groups=["a"])
