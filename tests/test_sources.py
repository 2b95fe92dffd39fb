from dataclasses import replace

import pytest

from drawing import draw_fundus, encode
from drtf.config import LabelsConfig
from drtf.errors import LabelError
from drtf.labels.sources import Source, load_sources
from naming import raises_naming


def make(folder, header, **grades):
    folder.mkdir()
    for number, name in enumerate(grades):
        (folder / f"{name}.png").write_bytes(encode(draw_fundus(seed=number)))
    lines = [header, *(f"{name},{grade}" for name, grade in grades.items())]
    (folder / "labels.csv").write_text("\n".join(lines))
    return Source(folder, folder / "labels.csv", folder.name)


def test_ids_and_patients_have_the_name_of_their_source(tmp_path):
    kaggle = make(tmp_path / "kaggle", "image,level", **{"10_left": 0, "10_right": 2})
    aptos = make(tmp_path / "aptos", "id_code,diagnosis", **{"10_left": 4, "x": 1})
    catalog = load_sources([kaggle, aptos], LabelsConfig())
    table = catalog.table
    assert table["id"].tolist() == [
        "kaggle/10_left",
        "kaggle/10_right",
        "aptos/10_left",
        "aptos/x",
    ]
    assert table["patient"].tolist() == ["kaggle/10"] * 2 + ["aptos/10", "aptos/x"]
    assert table["grade"].tolist() == [0, 2, 4, 1]
    assert table["source"].tolist() == ["kaggle"] * 2 + ["aptos"] * 2
    assert table["path"].iloc[[0, 3]].tolist() == ["10_left.png", "x.png"]
    assert [entry["name"] for entry in catalog.provenance] == ["kaggle", "aptos"]


def test_ids_have_no_prefix_when_the_source_has_no_name(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1)
    table = load_sources([Source(source.images, source.labels)], LabelsConfig()).table
    assert table["id"].tolist() == ["x"]


def test_unmatched_labels_and_photographs_are_listed_with_their_source(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1)
    source.labels.write_text("image,level\nx,1\ny,2\nx,1\n")
    (source.images / "z.png").touch()
    catalog = load_sources([source], LabelsConfig())
    unmatched = [("label", "y", "a"), ("photograph", "z.png", "a")]
    assert list(catalog.unmatched) == unmatched
    assert catalog.num_repeated == 1


def test_photograph_is_kept_when_its_size_is_unknown(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1, y=0)
    (source.images / "x.png").unlink()
    (source.images / "x.png").symlink_to("x.png")
    sizes = load_sources([source], LabelsConfig()).table["size_bytes"]
    assert sizes[0] == -1
    assert sizes[1] > 0


@pytest.mark.parametrize(
    "names", [("a", "a"), ("", ""), ("a/b", "c"), ("a b", "c"), ("..", "c")]
)
def test_invalid_names_of_sources_are_refused(tmp_path, names):
    source = make(tmp_path / "x", "image,level", x=1)
    sources = [Source(source.images, source.labels, name) for name in names]
    with raises_naming(LabelError, repr(names[0])):
        load_sources(sources, LabelsConfig())


def test_class_folders_are_the_labels_without_a_label_file(tmp_path):
    for folder, name in (("No_DR", "1_left"), ("Mild", "1_right"), ("No_DR", "x")):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / f"{name}.png").write_bytes(encode(draw_fundus(seed=0)))
    catalog = load_sources([Source(tmp_path, None, "kaggle")], LabelsConfig())
    table = catalog.table
    assert table["id"].tolist() == [
        "kaggle/Mild/1_right",
        "kaggle/No_DR/1_left",
        "kaggle/No_DR/x",
    ]
    assert table["patient"].tolist() == ["kaggle/1", "kaggle/1", "kaggle/No_DR/x"]
    assert table["grade"].tolist() == [1, 0, 0]
    assert catalog.provenance == [
        {
            "name": "kaggle",
            "class_folders": {"No_DR": 0, "Mild": 1},
            "columns_not_kept": [],
            "patients_from": "name",
            "num_without_patient": 1,
            "synthetic": False,
            "num_labels": 3,
            "num_labels_repeated": 0,
            "num_labels_without_photograph": 0,
            "num_photographs_without_label": 0,
            "num_ungraded": {},
        }
    ]


def test_skipped_files_are_listed_once_when_parts_share_a_folder(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1)
    (source.images / "notes.txt").write_text("of nobody")
    parts = [Source(source.images, source.labels, x) for x in ("train", "test")]
    skipped = load_sources(parts, LabelsConfig()).skipped
    assert [x.path for x in skipped if x.path.endswith("notes.txt")] == [
        "train/notes.txt"
    ]


def test_image_folder_is_named_when_it_has_no_class_folders(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1)
    with raises_naming(LabelError, source.images, "x.png", "--labels"):
        load_sources([Source(source.images, None)], LabelsConfig())


def test_columns_are_kept_when_only_some_sources_have_them(tmp_path):
    first = make(tmp_path / "a", "image,level,camera", **{"x,0": "Canon"})
    second = make(tmp_path / "b", "image,level", y=1)
    (first.images / "x,0.png").rename(first.images / "x.png")
    config = LabelsConfig(keep_columns=("camera",))
    catalog = load_sources([first, second], config)
    assert catalog.table["kept.camera"].tolist() == ["Canon", ""]
    found = [source["columns_not_kept"] for source in catalog.provenance]
    assert found == [[], ["camera"]]
    with raises_naming(LabelError, "labels.keep_columns", "'camera'", "'level'"):
        load_sources([second], config)
    folders = make(tmp_path / "c", "image,level")
    (folders.images / "0").mkdir()
    (second.images / "y.png").rename(folders.images / "0" / "y.png")
    with raises_naming(LabelError, "labels.keep_columns", "'camera'"):
        load_sources([Source(folders.images, None)], config)


def test_stated_eyes_fill_a_kept_column(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1, y=0, z=2)
    listed = source.images / "list.csv"
    listed.write_text("path,patient,side\nx.png,7,OD\ny.png,7,OS\nz.png,,\n")
    config = LabelsConfig(keep_columns=("eye",))
    catalog = load_sources([Source(listed, source.labels)], config)
    assert catalog.table["kept.eye"].tolist() == ["right", "left", ""]
    assert catalog.table["patient"].tolist() == ["7", "7", "z"]
    assert catalog.provenance[0]["columns_not_kept"] == []
    source.labels.write_text("image,level,eye\nx,1,L\ny,0,\nz,2,\n")
    catalog = load_sources([Source(listed, source.labels)], config)
    assert catalog.table["kept.eye"].tolist() == ["L", "left", ""]


@pytest.mark.parametrize("names", [["source"], ["age", "age"], [""]])
def test_columns_are_not_kept_when_their_names_are_taken(tmp_path, names):
    source = make(tmp_path / "a", "image,level", x=1)
    config = LabelsConfig(keep_columns=tuple(names))
    with raises_naming(LabelError, "labels.keep_columns", repr(names[-1])):
        load_sources([source], config)


def test_folders_of_a_published_split_that_was_not_used_are_told(tmp_path):
    source = make(tmp_path / "a", "image,level", x=1, y=0)
    for name, folder in (("x", "train"), ("y", "test")):
        (source.images / folder).mkdir()
        (source.images / f"{name}.png").rename(source.images / folder / f"{name}.png")
    unread = "unread_split_folders"
    (entry,) = load_sources([source], LabelsConfig()).provenance
    assert entry[unread] == ["test", "train"]
    (entry,) = load_sources([replace(source, split="test")], LabelsConfig()).provenance
    assert entry[unread] == []
