"""Names, folders, fingerprints, archives, fetching and checking of data sets, on small files made here."""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from PIL import Image

from medrepro.data import catalogue, registry
from medrepro.data.archives import safe_extract
from medrepro.data.registry import check, data_folders, fetch, fingerprint, locate, names, resolve


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("MEDREPRO_CACHE", str(folder))
    monkeypatch.delenv("MEDREPRO_DATA", raising=False)
    return folder


def picture(path, *, seed=0, size=(24, 30), mask=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    if mask:
        pixels = np.zeros(size, np.uint8)
        pixels[4:12, 5:20] = 255
    Image.fromarray(pixels).save(path)


def kvasir_at(root, count=3):
    for n in range(count):
        picture(root / "images" / f"img{n}.jpg", seed=n)
        picture(root / "masks" / f"img{n}.jpg", mask=True)
    return root


@pytest.fixture
def kvasir(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path / "sets"))
    kvasir_at(tmp_path / "sets" / "kvasir-seg" / "Kvasir-SEG")
    return tmp_path / "sets" / "kvasir-seg"


# names


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("isic2018_task1", "isic18"),
        ("isic2018", "isic18"),
        ("Kvasir-SEG", "kvasir"),
        ("kvasir_seg", "kvasir"),
        ("BUSI", "busi"),
        ("phantom-ultrasound-hurst", "phantom"),
        ("phantom-ultrasound", "phantom"),
        ("phantom-ultrasound-mean", "phantom-mean"),
        ("phantom-dermoscopy-hurst", "phantom-dermoscopy"),
        ("phantom-endoscopy-mean", "phantom-endoscopy-mean"),
    ],
)
def test_aliases_lead_to_the_name(alias, name):
    assert resolve(alias).name == name


def test_no_alias_has_two_meanings():
    every = [alias for entry in catalogue.ENTRIES.values() for alias in (entry.name, *entry.aliases)]
    assert len(every) == len(set(every))


def test_names_start_with_the_default_and_can_be_filtered():
    assert names()[0] == "phantom"
    assert names(modality="endoscopy")[-1] == "kvasir"
    assert all(resolve(name).modality == "ultrasound" for name in names(modality="ultrasound"))


def test_an_unknown_name_gets_the_known_ones_and_the_closest():
    with pytest.raises(ValueError, match=r"'kvasri'; did you mean 'kvasir'\? known: phantom, .*busi"):
        resolve("kvasri")


def test_every_real_set_states_terms_citation_and_source_and_no_invented_hash():
    for entry in catalogue.REAL:
        assert entry.terms
        assert entry.citation
        assert entry.where
        assert entry.sha256 is None
        assert entry.url is None


def test_the_registry_imports_nothing_heavy():
    code = "import sys, medrepro.data.registry; print(*[m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"torch", "skimage", "sklearn", "pandas", "nilearn", "pydicom", "scipy", "pooch", "numpy"}


# folders


def test_data_folders_are_separated_like_path(monkeypatch, tmp_path):
    assert data_folders() == []
    monkeypatch.setenv("MEDREPRO_DATA", os.pathsep.join([str(tmp_path / "a b"), "", str(tmp_path / "c")]))
    assert data_folders() == [tmp_path / "a b", tmp_path / "c"]


@pytest.mark.parametrize(
    "place", ["kvasir/Kvasir-SEG", "KVASIR_SEG/Kvasir-SEG", "Kvasir-SEG", "kvasir-seg", "my kvasir/../Kvasir-SEG"]
)
def test_a_set_is_found_under_its_aliases_and_in_its_original_layout(tmp_path, monkeypatch, place):
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "sets" / "my kvasir").mkdir(parents=True)
    kvasir_at(tmp_path / "sets" / place)
    monkeypatch.setenv("MEDREPRO_DATA", f"{empty}{os.pathsep}{tmp_path / 'sets'}")
    assert catalogue.layout_root(resolve("kvasir"), locate("kvasir")).samefile(tmp_path / "sets" / place)


def test_the_folder_of_a_set_may_be_given_itself(tmp_path, monkeypatch):
    kvasir_at(tmp_path / "Kvasir-SEG")
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path / "Kvasir-SEG"))
    assert locate("kvasir") == tmp_path / "Kvasir-SEG"


def test_folders_called_images_and_masks_of_something_else_are_not_taken(tmp_path, monkeypatch):
    kvasir_at(tmp_path / "lungs")
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path / "lungs"))
    with pytest.raises(FileNotFoundError):
        locate("kvasir")


def test_a_missing_set_says_what_to_set_where_to_get_it_and_the_terms():
    with pytest.raises(FileNotFoundError) as caught:
        locate("kvasir")
    text = str(caught.value)
    for words in (
        "MEDREPRO_DATA is not set",
        "Kvasir-SEG/images",
        "Kvasir-SEG/masks",
        "Simula",
        "unsure",
        "kvasir_seg",
    ):
        assert words in text


def test_an_incomplete_layout_and_a_wrong_folder_are_named(tmp_path, monkeypatch):
    picture(tmp_path / "sets" / "kvasir" / "Kvasir-SEG" / "images" / "a.jpg")
    monkeypatch.setenv("MEDREPRO_DATA", f"{tmp_path / 'sets'}{os.pathsep}{tmp_path / 'gone'}")
    with pytest.raises(FileNotFoundError, match=r"kvasir lacks Kvasir-SEG/images.*gone is no folder"):
        locate("kvasir")


def test_a_phantom_has_no_files():
    with pytest.raises(ValueError, match="made from a seed"):
        locate("phantom")


# fingerprints


def test_phantoms_and_packaged_data_have_no_fingerprint():
    assert fingerprint("phantom") is None
    assert fingerprint("phantom-dermoscopy-mean") is None
    assert fingerprint("mni-t1") is None
    with pytest.raises(ValueError, match="no data set"):
        fingerprint("nothing")


def test_the_fingerprint_is_that_of_its_definition(kvasir):
    lines = ""
    for path in sorted(kvasir.rglob("*.jpg"), key=lambda path: path.relative_to(kvasir).as_posix()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lines += f"{path.relative_to(kvasir).as_posix()}\0{len(content)}\0{digest}\n"
    assert fingerprint("kvasir") == hashlib.sha256(lines.encode()).hexdigest()


def test_the_fingerprint_follows_content_and_not_place_or_time(kvasir, tmp_path, monkeypatch):
    before = fingerprint("kvasir")
    for path in kvasir.rglob("*.jpg"):
        os.utime(path, (1, 1))
    assert fingerprint("kvasir-seg") == before
    (kvasir / "notes.txt").write_text("not read by the loader")
    assert fingerprint("kvasir") == before
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    kvasir.rename(moved / "kvasir")
    monkeypatch.setenv("MEDREPRO_DATA", str(moved))
    assert fingerprint("kvasir") == before
    picture(moved / "kvasir" / "Kvasir-SEG" / "images" / "img1.jpg", seed=9)
    assert fingerprint("kvasir") != before


def test_hashes_are_cached_and_a_damaged_cache_is_ignored(kvasir, cache, monkeypatch):
    first = fingerprint("kvasir")
    assert len(json.loads((cache / "hashes.json").read_text())) == 6

    def refuse(*_args):
        raise AssertionError("hashed again")

    with monkeypatch.context() as patched:
        patched.setattr(hashlib, "file_digest", refuse)
        assert fingerprint("kvasir") == first
    (cache / "hashes.json").write_text("{ half a fi")
    assert fingerprint("kvasir") == first
    assert [path.name for path in cache.iterdir()] == ["hashes.json"]  # no temporary file is left


def test_a_cache_that_cannot_be_written_does_no_harm(kvasir, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("MEDREPRO_CACHE", str(tmp_path / "file" / "cache"))
    assert len(fingerprint("kvasir")) == 64


# archives


def zip_of(path, members):
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


def tar_of(path, members, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w:gz") as opened:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content) if kind == tarfile.REGTYPE else 0, "/etc/passwd"
            opened.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_a_plain_archive_is_unpacked(tmp_path, make):
    archive = make(tmp_path / "a", [("top/x.txt", b"1"), ("top/deep/y (2).txt", b"22")])
    written = safe_extract(archive, tmp_path / "out")
    assert sorted(path.relative_to(tmp_path / "out").as_posix() for path in written) == [
        "top/deep/y (2).txt",
        "top/x.txt",
    ]
    assert (tmp_path / "out" / "top" / "deep" / "y (2).txt").read_bytes() == b"22"


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("bad", ["../evil.txt", "/tmp/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_a_member_that_leaves_the_folder_is_refused_before_anything_is_written(tmp_path, make, bad):
    archive = make(tmp_path / "a", [("good.txt", b"1"), (bad, b"2")])
    with pytest.raises(ValueError, match="outside the folder: nothing was unpacked"):
        safe_extract(archive, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    archive = tar_of(tmp_path / "a", [("link", b"")], kind)
    with pytest.raises(ValueError, match="a link or a device"):
        safe_extract(archive, tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path):
    info = zipfile.ZipInfo("link")
    info.external_attr = 0o120777 << 16
    with pytest.raises(ValueError, match="a link or a device"):
        safe_extract(zip_of(tmp_path / "a", [(info, "/etc/passwd")]), tmp_path / "out")


def test_a_file_that_is_no_archive_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="neither a zip nor a tar"):
        safe_extract(tmp_path / "a", tmp_path / "out")


# fetching


def test_a_set_without_a_known_hash_is_not_fetched_but_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDREPRO_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"busi is not fetched.*Data in Brief.*unpack"):
        fetch("busi")
    assert list(tmp_path.iterdir()) == []


def test_a_set_that_is_there_is_not_fetched_again(kvasir):
    assert fetch("kvasir") == kvasir


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A catalogue entry whose archive is served on this machine; gives the data folder and a function to set it up."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sets = tmp_path / "sets"
    sets.mkdir()
    monkeypatch.setenv("MEDREPRO_DATA", str(sets))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    def setup(members, sha256=None):
        archive = zip_of(folder / "set.zip", members)
        digest = sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
        url = f"http://127.0.0.1:{server.server_port}/set.zip"
        monkeypatch.setitem(catalogue._ALIASES, "kvasir", replace(resolve("kvasir"), url=url, sha256=digest))
        return sets

    yield setup
    server.shutdown()
    server.server_close()


def test_a_known_archive_is_fetched_checked_and_unpacked(served):
    sets = served([("Kvasir-SEG/images/a.jpg", b"1"), ("Kvasir-SEG/masks/a.jpg", b"2")])
    assert fetch("kvasir") == sets / "kvasir"
    assert (sets / "kvasir" / "Kvasir-SEG" / "masks" / "a.jpg").read_bytes() == b"2"
    assert [path.name for path in sets.iterdir()] == ["kvasir"]


def test_a_failed_checksum_is_said_and_leaves_nothing(served):
    sets = served([("Kvasir-SEG/images/a.jpg", b"1")], sha256="0" * 64)
    with pytest.raises(ValueError, match="does not have the SHA-256 0000"):
        fetch("kvasir")
    assert list(sets.iterdir()) == []


@pytest.mark.parametrize(
    ("member", "words"), [("../evil.txt", "outside the folder"), ("other/a.jpg", "lacks Kvasir-SEG/images")]
)
def test_a_malicious_or_wrong_archive_leaves_nothing(served, member, words):
    sets = served([(member, b"1")])
    with pytest.raises(ValueError, match=words):
        fetch("kvasir")
    assert list(sets.iterdir()) == []
    assert not (sets.parent / "evil.txt").exists()


# checking


def test_a_whole_set_has_a_count_and_no_problem(kvasir):
    findings = check("kvasir")
    assert [finding.kind for finding in findings] == ["count"]
    assert "3 images (3 polyp), 3 mask files; the published set has 1000" in findings[0].message


def test_every_kind_of_fault_is_found_and_named(kvasir):
    root = kvasir / "Kvasir-SEG"
    kvasir_at(root, 6)
    (root / "masks" / "img0.jpg").unlink()
    picture(root / "masks" / "img1.jpg", size=(20, 20), mask=True)
    broken = root / "images" / "img2.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    Image.new("L", (30, 24)).save(root / "masks" / "img3.jpg")
    (root / "images" / "img5.jpg").write_bytes((root / "images" / "img4.jpg").read_bytes())
    found = {finding.kind: finding for finding in check("kvasir")[1:]}
    assert set(found) == {"missing mask", "size mismatch", "unreadable", "empty mask", "near duplicates"}
    assert "img0.jpg" in found["missing mask"].message
    assert "img1.jpg is 20 x 20" in found["size mismatch"].message
    assert "img2.jpg is truncated" in found["unreadable"].message
    assert "2 images in 1 clusters" in found["near duplicates"].message
    assert {kind for kind, finding in found.items() if finding.problem} == {
        "missing mask",
        "size mismatch",
        "unreadable",
    }
    assert str(found["unreadable"]).startswith("PROBLEM: unreadable: ")


def test_a_phantom_has_nothing_to_check():
    assert check("phantom") == []


def test_loaders_do_not_depend_on_fetching_checking_or_packaged_pictures():
    # else an edit there would make every run on real data be computed again
    from medrepro import sources

    followed = sources.followed("medrepro.data.segmentation")
    assert "medrepro.data.layouts" in followed
    assert not {"medrepro.data.registry", "medrepro.data.archives", "medrepro.data.packaged"} & set(followed)


def test_the_front_door_gives_what_it_names():
    assert all(hasattr(registry, name) for name in registry.__all__)
