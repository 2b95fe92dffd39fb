import hashlib
import json

import pytest

from drtf.errors import RecordError
from drtf.records.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    hash_manifest,
    load_manifest,
    save_manifest,
)
from naming import raises_naming


@pytest.fixture
def manifest_copy(shards, tmp_path):
    (tmp_path / MANIFEST_FILE).write_bytes((shards / MANIFEST_FILE).read_bytes())
    return tmp_path


def change(folder, **changes):
    """Change a manifest, and leave its hash as it was."""
    path = folder / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2) + "\n")


def rehash(folder):
    """Write the hash that a manifest should have."""
    path = folder / MANIFEST_FILE
    contents = json.loads(path.read_text())
    del contents["sha256"]
    canonical = json.dumps(contents, sort_keys=True).encode()
    contents["sha256"] = hashlib.sha256(canonical).hexdigest()
    path.write_text(json.dumps(contents, indent=2) + "\n")


def test_a_manifest_counts_what_stands_in_the_shards(shards):
    manifest = load_manifest(shards)
    counted = sum(sum(grades.values()) for grades in manifest.num_records.values())
    assert counted == sum(shard.num_records for shard in manifest.shards) == 48


def test_an_edited_manifest_is_refused(manifest_copy):
    change(manifest_copy, name="another")
    with raises_naming(RecordError, manifest_copy / MANIFEST_FILE):
        load_manifest(manifest_copy)
    rehash(manifest_copy)  # nothing but the hash was wrong
    assert load_manifest(manifest_copy).name == "another"


@pytest.mark.parametrize("file", ["../index.parquet", "/etc/passwd", "idx/../../x"])
def test_a_manifest_that_names_files_elsewhere_is_refused(shards, tmp_path, file):
    manifest = load_manifest(shards)
    changed = manifest.model_copy(update={"files": {file: "0" * 64}})
    save_manifest(tmp_path, changed)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE, file):
        load_manifest(tmp_path)


def test_a_manifest_of_a_hundred_thousand_brackets_is_refused(tmp_path):
    (tmp_path / MANIFEST_FILE).write_text("[" * 100_000)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE) as error:
        load_manifest(tmp_path)
    assert isinstance(error.value.__cause__, RecursionError)


def test_what_a_later_drtf_adds_is_passed_over(manifest_copy):
    before = hash_manifest(manifest_copy)
    change(manifest_copy, novelty={"a": 3})
    rehash(manifest_copy)
    assert load_manifest(manifest_copy).name == "drawn"
    contents = json.loads((manifest_copy / MANIFEST_FILE).read_text())
    assert hash_manifest(manifest_copy) == contents["sha256"] != before


@pytest.mark.parametrize("version", [1, FORMAT_VERSION + 1])
def test_another_format_version_is_refused_by_its_number(manifest_copy, version):
    change(manifest_copy, format_version=version)
    path = manifest_copy / MANIFEST_FILE
    with raises_naming(RecordError, path, version, FORMAT_VERSION):
        load_manifest(manifest_copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version"', "\x00"])
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with raises_naming(RecordError, tmp_path / MANIFEST_FILE):
        load_manifest(tmp_path)


def test_a_folder_without_one_is_no_set(tmp_path):
    with raises_naming(RecordError, tmp_path, MANIFEST_FILE, "drtf build-shards"):
        load_manifest(tmp_path)


def test_the_hash_names_the_contents(shards, manifest_copy):
    assert hash_manifest(manifest_copy) == hash_manifest(shards)
