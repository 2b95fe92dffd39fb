import hashlib
import json

import pytest

from drtf.errors import RecordError
from drtf.records.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    SYNTHETIC_NOTE,
    UNKNOWN_PATIENTS_NOTE,
    hash_manifest,
    load_manifest,
    save_manifest,
)
from naming import assert_names, raises_naming


@pytest.fixture
def manifest_copy(shards, tmp_path):
    (tmp_path / MANIFEST_FILE).write_bytes((shards / MANIFEST_FILE).read_bytes())
    return tmp_path


def change(folder, **changes):
    """Change a manifest without updating its hash."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


def rehash(folder):
    """Update the hash of a changed manifest."""
    path = folder / MANIFEST_FILE
    contents = json.loads(path.read_text())
    del contents["sha256"]
    canonical = json.dumps(contents, sort_keys=True).encode()
    contents["sha256"] = hashlib.sha256(canonical).hexdigest()
    path.write_text(json.dumps(contents, indent=2) + "\n")


def test_manifest_counts_the_records_of_its_shards(shards):
    manifest = load_manifest(shards)
    counted = sum(sum(grades.values()) for grades in manifest.num_records.values())
    assert counted == sum(shard.num_records for shard in manifest.shards) == 48


def test_manifest_is_refused_when_edited(manifest_copy):
    change(manifest_copy, name="another")
    with raises_naming(RecordError, manifest_copy / MANIFEST_FILE):
        load_manifest(manifest_copy)
    rehash(manifest_copy)  # only the hash was wrong
    assert load_manifest(manifest_copy).name == "another"


@pytest.mark.parametrize("file", ["../index.parquet", "/etc/passwd", "idx/../../x"])
def test_manifest_is_refused_when_a_file_is_outside_its_folder(shards, tmp_path, file):
    manifest = load_manifest(shards)
    changed = manifest.model_copy(update={"files": {file: "0" * 64}})
    save_manifest(tmp_path, changed)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE, file):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change_contents", "fact"),
    [
        (lambda x: x["shards"][0].update(num_records=-1), "shards.0.num_records"),
        (lambda x: x["shards"][0].update(num_records=2**70), "shards.0.num_records"),
        (lambda x: x["shards"][0].update(num_records=1.5), "shards.0.num_records"),
        (lambda x: x["shards"][0].update(num_records=0), "train"),
        (lambda x: x["shards"][0].update(size_bytes=16), "train"),
        (lambda x: x["shards"][0].update(split="other"), "train"),
        (lambda x: x["shards"][0].update(file="a\0b"), "a\\x00b"),
        (lambda x: x["num_records"]["val"].update({"0": None}), "num_records.val.0"),
        (lambda x: x["num_patients"].pop("val"), "num_patients"),
        (lambda x: x["quality"]["contrast"].pop(), "quality.contrast.4"),
        (lambda x: x.update(image_size=0), "image_size"),
        (lambda x: x.update(image_size=2**31), "image_size"),
        (lambda x: x["provenance"].update(sources=["x"]), "provenance.sources"),
    ],
)
def test_manifest_is_refused_when_its_values_are_impossible(
    manifest_copy, change_contents, fact
):
    path = manifest_copy / MANIFEST_FILE
    contents = json.loads(path.read_text())
    change_contents(contents)
    path.write_text(json.dumps(contents))
    rehash(manifest_copy)
    with raises_naming(RecordError, path, fact):
        load_manifest(manifest_copy)


def test_manifest_is_refused_when_nested_too_deeply(tmp_path):
    (tmp_path / MANIFEST_FILE).write_text("[" * 100_000)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE):
        load_manifest(tmp_path)


def test_unknown_keys_of_a_manifest_are_ignored(manifest_copy):
    before = hash_manifest(manifest_copy)
    change(manifest_copy, novelty={"a": 3})
    rehash(manifest_copy)
    assert load_manifest(manifest_copy).name == "drawn"
    contents = json.loads((manifest_copy / MANIFEST_FILE).read_text())
    assert hash_manifest(manifest_copy) == contents["sha256"] != before


@pytest.mark.parametrize("version", [1, FORMAT_VERSION + 1])
def test_manifest_is_refused_when_its_format_version_differs(manifest_copy, version):
    change(manifest_copy, format_version=version)
    path = manifest_copy / MANIFEST_FILE
    with raises_naming(RecordError, path, version, FORMAT_VERSION):
        load_manifest(manifest_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version"', "\x00"])
def test_manifest_is_refused_when_it_is_not_a_manifest(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE):
        load_manifest(tmp_path)


def test_folder_is_refused_when_it_has_no_manifest(tmp_path):
    with raises_naming(RecordError, tmp_path, MANIFEST_FILE, "drtf build-shards"):
        load_manifest(tmp_path)


def test_equal_manifests_have_equal_hashes(shards, manifest_copy):
    assert hash_manifest(manifest_copy) == hash_manifest(shards)


def test_notes_name_synthetic_photographs_and_unknown_patients(shards):
    manifest = load_manifest(shards)
    assert manifest.notes == []
    synthetic = {"sources": [{"synthetic": False}, {"synthetic": True}]}
    update = {"patients_from": "none", "provenance": synthetic}
    changed = manifest.model_copy(update=update)
    assert changed.notes == [SYNTHETIC_NOTE, UNKNOWN_PATIENTS_NOTE]
    for note in changed.notes:
        assert note in changed._repr_html_()


def test_note_counts_the_photographs_of_unknown_patients(shards):
    sources = {"sources": [{"num_without_patient": 2}, {"num_without_patient": 3}, {}]}
    update = {"patients_from": "name", "provenance": sources}
    (note,) = load_manifest(shards).model_copy(update=update).notes
    assert_names(note, 5, "patients")
