import pytest

from medrepro import paths, published
from medrepro.published import read_yaml

pytestmark = pytest.mark.quick

# typed a second time, by hand, from the table of the paper: model -> (value, spread, mark) for ISIC18, Kvasir-SEG, BUSI
TABLE_1 = {
    "unet": [(85.40, 0.25, None), (72.22, 1.82, None), (62.20, 2.40, None)],
    "cse": [(85.94, 0.36, "†"), (72.72, 1.52, None), (65.36, 1.36, None)],
    "scse": [(85.92, 0.29, "†"), (72.94, 1.07, None), (64.82, 1.03, None)],
    "srm": [(84.33, 1.27, None), (61.13, 3.42, None), (68.09, 3.14, "†")],
    "fca": [(86.19, 0.75, None), (70.00, 2.51, None), (66.27, 2.48, None)],
    "mono": [(86.24, 0.27, "‡"), (71.86, 2.37, None), (69.00, 2.53, "‡")],
    "multi": [(86.26, 0.28, "‡"), (74.76, 2.20, "†"), (66.94, 2.45, "†")],
}

WHOLE = """
paper: fake
title: A paper
reference: someone2020
tables:
  table_1:
    place: Table 1
    metric: dice
    certainty: read
    source: the paper
    values:
      - {of: {model: unet}, value: 85.4}
      - {of: {model: mono}, value: 86.2, spread: 0.3, mark: "†"}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A paper on disk; returns a function that writes its published numbers."""
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    (tmp_path / "fake").mkdir()

    def write(text):
        (tmp_path / "fake" / "published.yaml").write_text(text, encoding="utf-8")

    write(WHOLE)
    return write


def test_table_1_of_the_multifractal_paper_holds_the_21_values_of_the_paper():
    table = published.table("multifractal", "table_1")
    found = {(one.of["model"], one.of["data"]): (one.value, one.spread, one.mark) for one in table.values}
    expected = {
        (model, data): row[column]
        for model, row in TABLE_1.items()
        for column, data in enumerate(("isic18", "kvasir", "busi"))
    }
    assert len(table.values) == len(expected) == 21
    assert found == expected
    assert (table.metric, table.unit, table.place) == ("dice", "percent", "Table 1")


def test_gains_over_the_unet_are_those_of_the_paper():
    frame = published.frame("multifractal", "table_1").pivot(index="model", columns="data", values="value")
    gains = (frame - frame.loc["unet"]).round(2)[["isic18", "kvasir", "busi"]]
    assert gains.loc["mono"].tolist() == [0.84, -0.36, 6.80]
    assert gains.loc["multi"].tolist() == [0.86, 2.54, 4.74]
    assert gains.loc["srm"].tolist() == [-1.07, -11.09, 5.89]


def test_a_conflict_between_sources_is_noted_at_the_number():
    [value] = [
        one
        for one in published.table("multifractal", "table_1").values
        if one.of == {"model": "multi", "data": "kvasir"}
    ]
    assert "‡" in value.note


@pytest.mark.parametrize("paper", sorted(path.parent.name for path in paths.PACKAGE.glob("*/published.yaml")))
def test_every_published_file_fits_the_schema_and_names_its_folder(paper):
    whole = published.published(paper)
    assert whole.paper == paper
    assert whole.tables
    bibliography = (paths.root() / "book" / "references.bib").read_text(encoding="utf-8")
    assert f"{{{whole.reference}," in bibliography
    for name, table in whole.tables.items():
        keys = [tuple(sorted(value.of.items())) for value in table.values]
        assert len(keys) == len(set(keys)), f"{paper} {name}: a number stands twice"
        assert not [value for value in table.values if value.spread is not None and value.spread < 0]


def test_a_frame_has_the_keys_then_value_spread_mark_and_note(fake):
    frame = published.frame("fake", "table_1")
    assert list(frame.columns) == ["model", "value", "spread", "mark", "note"]
    assert frame["value"].tolist() == [85.4, 86.2]


def test_an_edit_of_the_file_is_seen_in_the_same_process(fake):
    assert published.table("fake", "table_1").values[0].value == 85.4
    fake(WHOLE.replace("85.4", "99.25"))
    assert published.table("fake", "table_1").values[0].value == 99.25


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("value: 85.4", "valeu: 85.4", r"at tables\.table_1\.values\.0\.val"),
        ("certainty: read", "certainty: sure", r"at tables\.table_1\.certainty: .*'read'.*got 'sure'"),
        ("place: Table 1", "plaice: Table 1", r"at tables\.table_1\.pla"),
        ("spread: 0.3", "spread: much", r"at tables\.table_1\.values\.1\.spread: .*got 'much'"),
        ("title: A paper", "title: [A]", "at title: .*got "),
        ("paper: fake", "paper: fake\nextra: 1", "at extra: Extra inputs are not permitted"),
        ("paper: fake", "paper: [fake", "is not readable YAML"),
    ],
)
def test_a_fault_in_the_file_is_told_with_file_and_place(fake, tmp_path, old, new, told):
    assert old in WHOLE
    fake(WHOLE.replace(old, new))
    with pytest.raises(ValueError, match=told) as caught:
        published.published("fake")
    assert str(tmp_path / "fake" / "published.yaml") in str(caught.value)


def test_an_empty_file_is_told(fake):
    fake("")
    with pytest.raises(ValueError, match=r"published\.yaml: .*dictionary"):
        published.published("fake")


def test_unknown_papers_and_tables_list_the_known_ones(fake):
    with pytest.raises(ValueError, match="no published numbers for 'nonsense'; known papers: fake"):
        published.published("nonsense")
    with pytest.raises(ValueError, match="no published table 'table_9' of fake; known: table_1"):
        published.table("fake", "table_9")


def test_a_value_may_be_a_word_and_keeps_its_kind(tmp_path):
    path = tmp_path / "value.yaml"
    path.write_text("{of: {model: unet, level: 3}, value: best}")
    value = read_yaml(path, published.Value)
    assert value.value == "best"
    assert value.of == {"model": "unet", "level": 3}
