"""Loading images and masks: every quirk of the real sets on small files made here, and on the real ones where given."""

import os
import time

import numpy as np
import pytest
from PIL import Image

from medrepro.data import segmentation
from medrepro.data.catalogue import locate
from medrepro.data.segmentation import load_segmentation, read_image, read_mask

GIVEN = os.environ.get("MEDREPRO_DATA")


@pytest.fixture(autouse=True)
def sets(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sets"
    folder.mkdir()
    monkeypatch.setenv("MEDREPRO_DATA", str(folder))
    return folder


def save(path, array, mode=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def colours(seed, size=(20, 30)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def square(size=(20, 30), rows=slice(4, 12), columns=slice(6, 18)):
    mask = np.zeros(size, np.uint8)
    mask[rows, columns] = 255
    return mask


def isic(sets, count=3):
    for n in range(count):
        save(sets / "isic2018_task1" / "ISIC2018_Task1-2_Training_Input" / f"ISIC_{n}.jpg", colours(n), quality=95)
        truth = sets / "isic2018_task1" / "ISIC2018_Task1_Training_GroundTruth"
        save(truth / f"ISIC_{n}_segmentation.png", square())
    return sets / "isic2018_task1"


def kvasir(sets, count=3, suffix=".png"):
    root = sets / "kvasir" / "Kvasir-SEG"
    for n in range(count):
        save(root / "images" / f"c{n}.jpg", colours(n), quality=95)
        save(root / "masks" / f"c{n}{suffix}", square())
    return root


def busi(sets):
    root = sets / "busi" / "Dataset_BUSI_with_GT"
    for label, count in (("benign", 4), ("malignant", 3)):
        for n in range(1, count + 1):
            save(root / label / f"{label} ({n}).png", colours(hash_of(label) + n)[..., 0])
            save(root / label / f"{label} ({n})_mask.png", square())
    save(root / "normal" / "normal (1).png", colours(50))
    save(root / "normal" / "normal (1)_mask.png", np.zeros((20, 30)))
    save(sets / "busi" / "images_only" / "normal" / "normal (2).png", colours(51))
    return root


def hash_of(label):
    return sum(map(ord, label))


# one interface


@pytest.mark.parametrize("name", ["phantom", "phantom-dermoscopy", "isic18", "kvasir", "busi", "kvasir-seg"])
def test_every_set_comes_under_one_interface(sets, name):
    isic(sets)
    kvasir(sets)
    busi(sets)
    loaded = load_segmentation(name, size=32, count=3)
    n = len(loaded)
    assert loaded.images.shape == (n, 3, 32, 32)
    assert loaded.masks.shape == (n, 1, 32, 32)
    assert loaded.images.dtype == loaded.masks.dtype == np.float32
    assert loaded.images.min() >= 0
    assert loaded.images.max() <= 1
    assert set(np.unique(loaded.masks)) == {0, 1}
    assert len(loaded.names) == len(loaded.labels) == len(loaded.groups) == n == (7 if name == "busi" else 3)
    part = loaded.take([2, 0])
    assert part.names.tolist() == [loaded.names[2], loaded.names[0]]


def test_phantoms_follow_seed_first_limit_and_options():
    loaded = load_segmentation("phantom", size=32, count=6, seed=4)
    assert np.array_equal(load_segmentation("phantom", size=32, count=6, limit=2, seed=4).images, loaded.images[:2])
    assert np.array_equal(load_segmentation("phantom", size=32, count=2, first=4, seed=4).images, loaded.images[4:])
    rough = load_segmentation("phantom", size=32, count=6, seed=4, phantom={"roughness": 0.9})
    assert not np.array_equal(rough.masks, loaded.masks)
    mean = load_segmentation("phantom-mean", size=32, count=2, seed=4)
    assert np.array_equal(
        mean.images, load_segmentation("phantom", size=32, count=2, seed=4, phantom={"cue": "mean"}).images
    )


# resizing and intensity


def test_images_are_resized_by_half_pixel_bilinear_without_antialias(sets):
    root = kvasir(sets)
    pixels = read_image(root / "images" / "c0.jpg").astype(float)
    got = load_segmentation("kvasir", size=(7, 11)).images[0]
    for row in range(7):
        for column in range(11):
            y, x = max((row + 0.5) * 20 / 7 - 0.5, 0), max((column + 0.5) * 30 / 11 - 0.5, 0)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 19), min(left + 1, 29)
            v, w = y - top, x - left
            value = (1 - v) * ((1 - w) * pixels[top, left] + w * pixels[top, right])
            value += v * ((1 - w) * pixels[bottom, left] + w * pixels[bottom, right])
            assert np.allclose(got[:, row, column], value / 255, atol=1e-5)


def test_masks_are_nearest_with_half_pixel_centres_and_by_the_floor_rule_for_isic(sets):
    stripes = np.zeros((20, 30), np.uint8)
    stripes[:, ::2] = 255
    save(kvasir(sets) / "masks" / "c0.png", stripes)
    truth = isic(sets) / "ISIC2018_Task1_Training_GroundTruth"
    save(truth / "ISIC_0_segmentation.png", stripes)
    centres = [int((column + 0.5) * 30 / 7) % 2 == 0 for column in range(7)]
    floors = [int(column * 30 / 7) % 2 == 0 for column in range(7)]
    assert centres != floors  # else the test could not tell them apart
    assert load_segmentation("kvasir", size=7).masks[0, 0, 0].tolist() == centres
    assert load_segmentation("isic18", size=7).masks[0, 0, 0].tolist() == floors


def test_isic_is_stretched_per_image_and_others_are_divided_by_255(sets):
    dim = np.random.default_rng(0).integers(50, 120, (20, 30, 3))
    folder = isic(sets)
    save(folder / "ISIC2018_Task1-2_Training_Input" / "ISIC_0.jpg", dim)
    save(kvasir(sets) / "images" / "c0.jpg", dim)
    stretched, plain = (load_segmentation(name, size=20).images[0] for name in ("isic18", "kvasir"))
    assert (stretched.min(), stretched.max()) == (0, 1)
    assert plain.min() > 0.1
    assert plain.max() < 0.6


def test_a_constant_isic_image_is_finite(sets):
    folder = isic(sets)
    save(folder / "ISIC2018_Task1-2_Training_Input" / "ISIC_0.jpg", np.full((20, 30, 3), 90))
    assert np.all(load_segmentation("isic18", size=16).images[0] == 0)


# masks and their quirks


@pytest.mark.parametrize(
    ("mode", "suffix"), [("1", ".png"), ("L", ".png"), ("RGB", ".png"), ("P", ".gif"), ("L", ".jpg"), ("RGB", ".jpg")]
)
def test_a_mask_in_any_mode_is_thresholded_at_half_its_range(tmp_path, mode, suffix):
    path = save(tmp_path / f"m{suffix}", square((24, 32), slice(8, 16), slice(8, 24)), mode)
    mask = read_mask([path], tmp_path / "image.png", (24, 32))
    assert np.array_equal(mask > 127, square((24, 32), slice(8, 16), slice(8, 24)) > 0)


def test_several_mask_files_are_united(sets):
    root = busi(sets)
    save(root / "benign" / "benign (2)_mask_1.png", square(rows=slice(14, 19), columns=slice(0, 5)), "1")
    loaded = load_segmentation("busi", size=(20, 30))
    expected = (square() | square(rows=slice(14, 19), columns=slice(0, 5))) / 255
    assert np.array_equal(loaded.masks[loaded.names == "benign (2)"][0, 0], expected)
    assert np.array_equal(loaded.masks[loaded.names == "benign (3)"][0, 0], square() / 255)


def test_grey_masks_are_binarised_unless_asked_not_to(sets):
    root = kvasir(sets)
    grey = np.where(square() > 0, 250, 5)
    grey[10, 10], grey[0, 0] = 127, 128
    save(root / "masks" / "c0.png", grey)
    assert set(np.unique(load_segmentation("kvasir", size=(20, 30)).masks)) == {0, 1}
    mask = load_segmentation("kvasir", size=(20, 30)).masks[0, 0]
    assert (mask[10, 10], mask[0, 0]) == (0, 1)
    kept = load_segmentation("kvasir", size=(20, 30), binarise=False).masks[0, 0]
    assert np.allclose(kept, grey / 255, atol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif"])
def test_masks_are_matched_by_stem_whatever_their_ending(sets, suffix):
    kvasir(sets, suffix=suffix)
    assert load_segmentation("kvasir", size=(20, 30)).masks.mean() == pytest.approx((square() > 0).mean(), abs=0.02)


def test_the_ending_segmentation_is_stripped_and_numbers_need_not_be_consecutive(sets):
    folder = isic(sets, 1)
    save(folder / "ISIC2018_Task1-2_Training_Input" / "ISIC_0012221.jpg", colours(7))
    save(folder / "ISIC2018_Task1_Training_GroundTruth" / "ISIC_0012221_segmentation.png", square())
    assert load_segmentation("isic18", size=16).names.tolist() == ["ISIC_0", "ISIC_0012221"]


# classes, order, colour


def test_the_normal_class_is_left_out_unless_asked_for(sets):
    busi(sets)
    assert set(load_segmentation("busi", size=16).labels) == {"benign", "malignant"}
    both = load_segmentation("busi", size=16, classes=("normal", "benign"))
    assert both.labels.tolist() == ["benign"] * 4 + ["normal"] * 2
    normal = both.take(np.flatnonzero(both.labels == "normal"))
    assert normal.names.tolist() == ["normal (1)", "normal (2)"]  # the second has no mask file at all
    assert not normal.masks.any()


def test_an_unknown_class_is_refused_with_the_known_ones(sets):
    busi(sets)
    with pytest.raises(ValueError, match="expected some of benign, malignant, normal"):
        load_segmentation("busi", classes=("cyst",))


def test_grey_images_get_three_equal_channels(sets):
    busi(sets)
    image = load_segmentation("busi", size=16).images[0]
    assert np.array_equal(image[0], image[1])
    assert np.array_equal(image[0], image[2])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1"])
def test_every_image_mode_becomes_rgb(tmp_path, mode):
    assert read_image(save(tmp_path / "a.png", colours(0), mode)).shape == (20, 30, 3)


def test_a_limit_draws_by_seed_and_keeps_the_order(sets):
    kvasir(sets, 8)
    drawn = load_segmentation("kvasir", size=8, limit=4, seed=1)
    assert len(drawn) == 4
    assert drawn.names.tolist() == sorted(drawn.names)
    assert drawn.names.tolist() == load_segmentation("kvasir", size=8, limit=4, seed=1).names.tolist()
    others = [load_segmentation("kvasir", size=8, limit=4, seed=seed).names.tolist() for seed in range(2, 6)]
    assert any(other != drawn.names.tolist() for other in others)
    assert len(load_segmentation("kvasir", size=8, limit=99)) == 8


# groups


def test_groups_join_the_manifest_with_near_duplicates(sets):
    root = kvasir(sets, 5)
    save(root / "images" / "c4.jpg", colours(0), quality=90)  # looks like c0
    rows = ["file,kind,label,group", "Kvasir-SEG/images/c1.jpg,image,polyp,patient 1"]
    rows.append("Kvasir-SEG/images/c2.jpg,image,polyp,patient 1")
    (root.parent / "manifest.csv").write_text("\n".join(rows))
    assert load_segmentation("kvasir", size=16).groups.tolist() == [0, 1, 1, 2, 0]


def test_a_manifest_without_groups_is_refused(sets):
    root = kvasir(sets)
    (root.parent / "manifest.csv").write_text("path,who\na,b\n")
    with pytest.raises(ValueError, match=r"manifest.csv has the columns \['path', 'who'\]"):
        load_segmentation("kvasir")


# faults


def test_a_missing_mask_file_is_named(sets):
    root = busi(sets)
    (root / "benign" / "benign (3)_mask.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"benign \(3\)\.png has no mask file"):
        load_segmentation("busi")


@pytest.mark.parametrize("kind", ["images/c1.jpg", "masks/c1.png"])
@pytest.mark.parametrize("keep", [0, 12, 60])
def test_a_truncated_file_is_named(sets, kind, keep):
    path = kvasir(sets) / kind
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{kind} is truncated or no image"):
        load_segmentation("kvasir")


def test_a_mask_of_another_size_is_named_with_both_sizes(sets):
    root = kvasir(sets)
    save(root / "masks" / "c2.png", square((10, 30)))
    with pytest.raises(ValueError, match=r"c2\.png is 10 x 30, its image .*c2\.jpg is 20 x 30"):
        load_segmentation("kvasir")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "phantom", "size": (16, 32)}, "phantoms are square"),
        ({"name": "phantom", "size": 0}, "size is 0"),
        ({"name": "phantom", "limit": 0}, "limit is 0"),
        ({"name": "kvasir", "phantom": {"look": "endoscopy"}}, "a real set"),
        ({"name": "kvasar"}, "did you mean"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        load_segmentation(**arguments)


def test_an_empty_layout_is_named(sets):
    for part in ("images", "masks"):
        (sets / "kvasir" / "Kvasir-SEG" / part).mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Kvasir-SEG holds no images of polyp"):
        load_segmentation("kvasir")


# cache


def test_the_cache_gives_the_same_arrays_and_notices_a_changed_file(sets, monkeypatch):
    root = busi(sets)
    first = load_segmentation("busi", size=24)
    with monkeypatch.context() as patched:
        patched.setattr(segmentation, "_read_set", None)  # the files are not decoded again
        again = load_segmentation("busi", size=24)
    for part in ("images", "masks", "names", "labels", "groups"):
        assert np.array_equal(getattr(first, part), getattr(again, part))
    save(root / "benign" / "benign (1).png", colours(99))
    assert not np.array_equal(load_segmentation("busi", size=24).images[0], first.images[0])


def test_a_damaged_cache_file_is_made_again(sets, tmp_path):
    kvasir(sets)
    first = load_segmentation("kvasir", size=24)
    (stored,) = (tmp_path / "cache" / "segmentation").iterdir()
    whole = stored.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no archive"):
        stored.write_bytes(damaged)
        assert np.array_equal(load_segmentation("kvasir", size=24).images, first.images)
    assert stored.stat().st_size == len(whole)


def test_no_cache_is_written_when_not_wanted(sets, tmp_path):
    kvasir(sets)
    load_segmentation("kvasir", size=24, cache=False)
    assert not (tmp_path / "cache").exists()


# the real sets


@pytest.fixture
def real(monkeypatch):
    """Points `MEDREPRO_DATA` back to the folders of whoever runs the tests; skips where a set is not there."""
    if not GIVEN:
        pytest.skip("MEDREPRO_DATA is not set: the real sets cannot be tried")
    monkeypatch.setenv("MEDREPRO_DATA", GIVEN)

    def find(name):
        try:
            return locate(name)
        except FileNotFoundError:
            pytest.skip(f"none of the folders of MEDREPRO_DATA holds {name}")

    return find


@pytest.mark.parametrize("name", ["isic18", "kvasir", "busi"])
def test_a_real_set_loads_and_loads_again_in_half_a_second(real, name):
    real(name)
    first = load_segmentation(name, size=64, limit=40)
    assert len(first) == 40
    assert set(np.unique(first.masks)) == {0, 1}
    assert np.all(first.masks.sum(axis=(1, 2, 3)) > 0)
    assert first.images.std() > 0.05
    start = time.process_time()
    again = load_segmentation(name, size=64, limit=40)
    assert time.process_time() - start < 0.5
    assert np.array_equal(first.images, again.images)


def test_original_jpeg_masks_of_kvasir_are_thresholded(real, sets, monkeypatch):
    originals = real("kvasir") / "originals"
    if not originals.is_dir():
        pytest.skip(f"{originals} is not there: no original JPEG masks to try")
    (sets / "kvasir").mkdir()
    (sets / "kvasir" / "Kvasir-SEG").symlink_to(originals)
    monkeypatch.setenv("MEDREPRO_DATA", str(sets))
    grey = load_segmentation("kvasir", size=128, binarise=False).masks
    hard = load_segmentation("kvasir", size=128).masks
    assert len(np.unique(grey)) > 2  # JPEG values remain
    assert set(np.unique(hard)) == {0, 1}
    assert np.array_equal(hard, (grey > 0.5).astype(np.float32))
    assert np.abs(grey - hard).max() < 0.2


def test_original_masks_of_busi_open_in_every_mode(real):
    originals = real("busi") / "originals"
    if not originals.is_dir():
        pytest.skip(f"{originals} is not there: no original masks to try")
    modes = set()
    for path in sorted(originals.glob("*_mask.png")):
        with Image.open(path) as opened:
            modes.add(opened.mode)
            size = opened.size[::-1]
        share = (read_mask([path], path, size) > 127).mean()
        assert 0 < share < 0.7
    assert len(modes) > 1


def test_real_busi_unites_two_lesions_and_finds_mixed_groups(real):
    folder = real("busi")
    loaded = load_segmentation("busi", size=64, classes=("benign", "malignant", "normal"))
    if (second := folder / "Dataset_BUSI_with_GT" / "benign" / "benign (25)_mask_1.png").is_file():
        with Image.open(second) as opened:
            extra = np.asarray(opened.convert("L").resize((64, 64), Image.Resampling.NEAREST)) > 127
        mask = loaded.masks[loaded.names == "benign (25)"][0, 0]
        assert mask[extra].mean() > 0.9
        assert mask.sum() > extra.sum() * 1.05
    if {"benign (269)", "normal (1)"} <= set(loaded.names):  # one scene under two labels
        assert len(set(loaded.groups[np.isin(loaded.names, ["benign (269)", "normal (1)"])])) == 1
    sizes = np.bincount(loaded.groups)
    assert (sizes > 1).sum() >= 30  # near duplicates are many in this set
    assert not loaded.masks[loaded.labels == "normal"].any()
