import os
import tracemalloc
import zipfile
import zlib

import pyarrow as pa
import pytest

from drtf import texts
from drtf.errors import DrtfError, LabelError, PhotographError, StorageError
from drtf.files import save_rows
from drtf.photographs import references as photographs_module
from drtf.photographs.listing import (
    PATH_COLUMN,
    ListedFile,
    SkippedFile,
    describe_skipped,
    list_photographs,
    make_table,
)
from drtf.photographs.patient_columns import parse_eye
from drtf.photographs.references import FileStatus, PhotographRef
from drtf.storage import write_object
from naming import assert_names, raises_naming
from stores_servers import FileServer


def paths_of(images):
    return [photograph.path for photograph in list_photographs(images).photographs]


def test_photographs_are_listed_recursively_and_sorted(tmp_path):
    for name in ("b.JPG", "sub/deep/a.tif", "notes.txt", ".hidden.png", "c d.jpeg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert paths_of(tmp_path) == ["b.JPG", "c d.jpeg", "sub/deep/a.tif"]


def test_linked_folders_are_listed_once_when_links_form_a_circle(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").touch()
    images = tmp_path / "images"
    images.mkdir()
    (images / "link").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(images)
    (images / "folder.png").mkdir()
    assert paths_of(images) == ["link/a.png"]


def test_missing_folder_is_named(tmp_path):
    with raises_naming(LabelError, tmp_path / "nowhere", "--images"):
        list_photographs(tmp_path / "nowhere")


def test_empty_folder_is_named_with_the_extensions(tmp_path):
    with raises_naming(LabelError, tmp_path, ".jpeg"):
        list_photographs(tmp_path)


def test_single_photograph_is_listed(tmp_path):
    (tmp_path / "a.png").touch()
    for images in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert list_photographs(images).photographs == [
            PhotographRef(tmp_path, "a.png")
        ]


def test_other_file_is_refused_as_photographs(tmp_path):
    (tmp_path / "labels.txt").write_text("10_left 0")
    for name in ("labels.txt", "b.png"):
        with raises_naming(LabelError, tmp_path / name, "--images"):
            list_photographs(tmp_path / name)


JPEG = b"\xff\xd8\xff\xe0" + bytes(200)
DICOM = bytes(128) + b"DICM" + bytes(100)


def write_files(folder, contents):
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def test_content_decides_where_the_extension_does_not(tmp_path):
    pictures = {
        "IM00002": DICOM,
        "1.2.840.10008.5.1": DICOM,
        "scan.dcm": b"",
        "noext": JPEG,
        "photo.dat": JPEG,
        "saved.JFIF": b"",
        "phone.HEIC": b"",
        "clip": bytes(4) + b"ftypisom" + bytes(99),
    }
    others = {"labels.csv": b"a,b", "notes.txt": b"text", "README": b"text"}
    write_files(tmp_path, pictures | others | {"DICOMDIR": DICOM, "empty": b""})
    listing = list_photographs(tmp_path)
    assert [x.path for x in listing.photographs] == sorted(pictures)
    assert dict(listing.skipped) == {
        "labels.csv": ".csv",
        "notes.txt": ".txt",
        "README": "README",
        "DICOMDIR": "DICOMDIR",
        "empty": "empty",
    }


def test_system_folders_and_files_are_skipped_and_counted(tmp_path):
    system = (
        ".Trash-1000/files/a.jpg",
        "$RECYCLE.BIN/a.jpg",
        "#recycle/a.jpg",
        "@Recycle/a.jpg",
        "@tmp/a.jpg",
        "FOUND.000/a.jpg",
        "sub/@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
        "sub/.@__thumb/a.jpg",
        "__MACOSX/._a.jpg",
        ".ipynb_checkpoints/a-checkpoint.jpg",
        ".ipynb_checkpoints/b-checkpoint.jpg",
        ".git/objects/a",
        "lost+found/a.jpg",
        "Thumbs.db",
        "._a.jpg",
        "SYNOPHOTO_THUMB_M.jpg",
    )
    write_files(tmp_path, dict.fromkeys((*system, "a.jpg"), JPEG))
    listing = list_photographs(tmp_path)
    assert [x.path for x in listing.photographs] == ["a.jpg"]
    assert {x.path for x in listing.skipped} == set(system)
    line = describe_skipped(listing.skipped)
    assert_names(line, len(system), "2 in .ipynb_checkpoints", "1 in @eaDir")
    save_rows(tmp_path / "list.csv", SkippedFile._fields, listing.skipped)
    assert (tmp_path / "list.csv").read_text().count("\n") == len(system) + 1


def test_missing_pydicom_is_named_before_the_first_photograph(tmp_path, monkeypatch):
    write_files(tmp_path, {"IM1": DICOM, "a.jpg": JPEG})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with raises_naming(LabelError, "1 of 2", "pip install 'drtf[dicom]'"):
        list_photographs(tmp_path)


def write_zip(path, contents):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)


def test_photographs_of_a_zip_archive_are_read_in_place(tmp_path):
    write_zip(
        tmp_path / "train.zip",
        {
            "train/10_left.jpeg": JPEG,
            "train/noext": DICOM,
            "__MACOSX/train/._10_left.jpeg": b"x",
            "labels.csv": b"x",
            "../../evil.jpeg": JPEG,
            "/evil.jpeg": JPEG,
        },
    )
    listing = list_photographs(tmp_path / "train.zip")
    assert [x.path for x in listing.photographs] == [
        "train/10_left.jpeg",
        "train/noext",
    ]
    assert [x.path for x in listing.skipped] == [
        "../../evil.jpeg",
        "/evil.jpeg",
        "__MACOSX/train/._10_left.jpeg",
        "labels.csv",
    ]
    photograph = listing.photographs[0]
    assert photograph.read() == JPEG
    changed_ns = (tmp_path / "train.zip").stat().st_ctime_ns
    checksum = f"{zlib.crc32(JPEG):08x}"
    assert photograph.status() == FileStatus(len(JPEG), changed_ns, checksum)
    absent = PhotographRef(tmp_path / "train.zip", "absent.jpeg")
    assert absent.status().size_bytes == -1
    with pytest.raises(PhotographError):
        absent.read()


def test_folder_of_zip_archives_is_read_in_place(tmp_path):
    for part in "ab":
        write_zip(tmp_path / f"{part}.zip", {f"{part}.jpeg": JPEG})
    (tmp_path / "labels.csv").touch()
    assert paths_of(tmp_path) == ["a.zip/a.jpeg", "b.zip/b.jpeg"]
    assert list_photographs(tmp_path).photographs[1].read() == JPEG
    (tmp_path / "unpacked.jpeg").touch()
    assert paths_of(tmp_path) == ["unpacked.jpeg"]


def test_damaged_zip_archive_is_named(tmp_path):
    (tmp_path / "train.zip").write_bytes(b"PK\3\4" + bytes(99))
    with raises_naming(LabelError, tmp_path / "train.zip"):
        list_photographs(tmp_path / "train.zip")


@pytest.mark.parametrize(
    ("position", "value"),
    [(8, 1), (24, 5), (10, 99)],
    ids=["encrypted", "lies", "kind"],
)
def test_bad_members_of_a_zip_archive_are_unreadable(tmp_path, position, value):
    path = tmp_path / "train.zip"
    write_zip(path, {"a.jpeg": JPEG})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + position] = value
    path.write_bytes(data)
    with pytest.raises(PhotographError) as error:
        PhotographRef(path, "a.jpeg").read()
    assert error.value.reason == "unreadable"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_repeated_name_in_a_zip_archive_is_skipped_and_the_last_file_is_read(tmp_path):
    path = tmp_path / "train.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jpeg", JPEG)
        archive.writestr("a.jpeg", JPEG + b"new")
    listing = list_photographs(path)
    assert [x.path for x in listing.photographs] == ["a.jpeg"]
    assert [x.path for x in listing.skipped] == ["a.jpeg"]
    assert listing.photographs[0].read() == JPEG + b"new"


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("환자/왼쪽 눈.jpeg", "cp949"),
        ("환자/왼쪽 눈.jpeg", "utf-8"),
        ("rétine/Größe_niño.jpeg", "cp437"),
        ("rétine.jpeg", "utf-8"),
    ],
)
def test_names_in_a_zip_archive_that_declare_no_encoding_are_decoded(
    tmp_path, name, encoding
):
    encoded = name.encode(encoding)
    placeholder = b"x" * len(encoded)
    path = tmp_path / "train.zip"
    write_zip(path, {placeholder.decode(): JPEG})
    path.write_bytes(path.read_bytes().replace(placeholder, encoded))
    assert paths_of(path) == [name]
    assert PhotographRef(path, name).read() == JPEG


@pytest.mark.parametrize("part", ["start", "end", "middle", "of several"])
def test_incomplete_zip_archive_is_named(tmp_path, part):
    path = tmp_path / "train.zip"
    write_zip(path, {f"{i}.jpeg": JPEG * 9 for i in range(9)})
    data = bytearray(path.read_bytes())
    if part == "start":
        data = data[len(data) // 3 :]
    elif part == "end":
        data = data[: len(data) * 2 // 3]
    elif part == "middle":
        del data[100:200]
    else:
        data[data.index(b"PK\1\2") + 34] = 1  # the part that has the first file
    path.write_bytes(data)
    with raises_naming(LabelError, path):
        list_photographs(path)


def test_csv_with_separators_of_windows_is_read(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("path\nimages\\10_left.jpeg\n")
    assert paths_of(listed) == ["images/10_left.jpeg"]


@pytest.mark.parametrize("text", ["Path\na.png\n", "id|PATH\n1|a.png\n"])
def test_csv_has_the_column_path_in_any_case(tmp_path, text):
    listed = tmp_path / "list.csv"
    listed.write_text(text)
    assert list_photographs(listed).photographs == [PhotographRef(tmp_path, "a.png")]


def test_csv_lists_photographs_by_path(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("\ufeffid;path\r\n1;sub/b.png \r\n2;/else/a.png\r\n3;\r\n")
    assert list_photographs(listed).photographs == [
        PhotographRef(tmp_path, "/else/a.png"),
        PhotographRef(tmp_path, "sub/b.png"),
    ]


def test_a_column_without_a_name_states_no_patients(tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text(",path\n0,1_left.png\n1,1_right.png\n2,1_left.png\n")
    photographs = list_photographs(listed).photographs
    assert [(x.patient, x.eye) for x in photographs] == [("", ""), ("", "")]


def test_csv_states_patients_and_eyes(tmp_path, caplog):
    listed = tmp_path / "list.csv"
    listed.write_text(
        "path;Patient-ID;Image Laterality\n"
        "a.png;007;OD\nb.png;007;left eye\nc.png;N/A;OU\nd.png\n\na.png;007;R\n"
    )
    stated = {
        photograph.path: (photograph.patient, photograph.eye)
        for photograph in list_photographs(listed).photographs
    }
    assert stated == {
        "a.png": ("007", "right"),
        "b.png": ("007", "left"),
        "c.png": ("", ""),
        "d.png": ("", ""),
    }
    (record,) = caplog.records
    assert_names(record.getMessage(), listed, "'Image Laterality'", "1", "'OU'")
    listed.write_text("path,patient,eye\na.png,7,L\nb.png,8,\na.png,8,L\n")
    with raises_naming(LabelError, "line 4", listed, "a.png", "'7'", "'8'"):
        list_photographs(listed)


@pytest.mark.parametrize(
    ("cells", "eye"),
    [
        ("left, LEFT eye, L, LE, OS, o.s., OS (left), links, 左眼, 좌안", "left"),
        ("right, R, RE, OD, O.D., OD1, Right_eye, rechts, 右, 우안", "right"),
        ("OU, both, L/R, R+L, unknown, 1, -", ""),
    ],
)
def test_the_eye_of_a_cell(cells, eye):
    assert {parse_eye(cell) for cell in cells.split(", ")} == {eye}


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("image\na.png\n", [repr(PATH_COLUMN), ["image"]]),
        ("", [repr(PATH_COLUMN), "[]"]),
        ("path\n\n", []),
        ("path\n\udcff.png\n", ["CSV UTF-8"]),
        (None, ["No such file"]),
    ],
)
def test_csv_without_photographs_is_refused(tmp_path, text, facts):
    listed = tmp_path / "list.csv"
    if text is not None:
        listed.write_text(text, errors="surrogateescape")
    with raises_naming(LabelError, listed, *facts) as error:
        list_photographs(listed)
    column = repr(PATH_COLUMN)
    assert (column in str(error.value)) == (column in facts)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_unreadable_folder_is_named(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "closed").mkdir(mode=0)
    with raises_naming(LabelError, tmp_path / "closed"):
        list_photographs(tmp_path)


def test_empty_objects_that_are_folders_are_no_files():
    store = "memory://eyes/console"
    for name, data in (("a", b""), ("a/b", b""), ("a/b/1.png", b"1"), ("c", b"")):
        write_object(f"{store}/{name}", data)
    listing = list_photographs(store)
    assert [x.path for x in listing] == ["a/b/1.png"]
    assert list(listing.skipped) == [("c", "c")]


def test_a_listing_takes_little_more_memory_than_its_paths():
    count = 5 * texts.ROWS_PER_BATCH
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    table = make_table(
        ListedFile(f"{n:020}", n, version=f"{n:032}", patient=f"{n:06}", eye="left")
        for n in range(count)
    )
    in_python = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == count
    assert pa.total_allocated_bytes() - before + in_python < 130 * count


def test_a_list_of_a_store_has_the_size_and_version_of_each_photograph(monkeypatch):
    store = "memory://eyes/sized"
    for name in ("a.png", "b/c.png"):
        write_object(f"{store}/{name}", b"1234")
    found = list_photographs(store).photographs
    asked = [PhotographRef(store, x.path).status() for x in found]
    assert found == [PhotographRef(store, x) for x in ("a.png", "b/c.png")]
    monkeypatch.setattr(photographs_module, "find_object", None)
    assert [x.status() for x in found] == asked
    assert all(status.size_bytes == 4 and status.version for status in asked)


def test_an_archive_in_a_store_must_be_downloaded_first():
    write_object("memory://eyes/photos.zip", b"PK")
    with raises_naming(LabelError, "memory://eyes/photos.zip", "downloaded"):
        list_photographs("memory://eyes/photos.zip")


def test_csv_in_a_store_lists_photographs_by_path_or_location(tmp_path):
    store = "memory://eyes/lists"
    photographs = {
        "near.png": f"{store}/today/near.png",
        "../shared/far.png": f"{store}/shared/far.png",
        "memory://others/apart.png": "memory://others/apart.png",
    }
    for location in photographs.values():
        write_object(location, location.encode())
    text = "path\n" + "\n".join(photographs)
    write_object(f"{store}/today/list.csv", text.encode())
    found = list_photographs(f"{store}/today/list.csv").photographs
    assert {x.path: x.read().decode() for x in found} == photographs
    assert all(x.status().size_bytes == len(photographs[x.path]) for x in found)
    local = tmp_path / "list.csv"
    local.write_text("path\nmemory://others/apart.png\n")
    (remote,) = list_photographs(local).photographs
    assert remote.read() == b"memory://others/apart.png"


def test_urls_with_a_query_or_escapes_are_listed_by_their_name(tmp_path):
    (tmp_path / "my eye.png").write_bytes(b"photograph")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("a.png", b"in it")
    query = "?X-Amz-Signature=secret"
    with FileServer(tmp_path) as server:
        url = f"{server.location}/my%20eye.png"
        for location in (url, f"{server.location}/my eye.png"):
            (found,) = list_photographs(location).photographs
            assert (found.id, found.read()) == ("my eye", b"photograph")
        for location, path in (
            (url + query, "my eye.png"),
            (f"{server.location}/all.zip{query}", "a.png"),
        ):
            assert paths_of(location) == [path]
        (tmp_path / "list.csv").write_text(f"path\n{url}\n")
        (found,) = list_photographs(f"{server.location}/list.csv{query}").photographs
        assert (found.id, found.read()) == ("my eye", b"photograph")


def test_csv_of_locations_that_cannot_be_read_later_is_refused(tmp_path):
    for row, shown in (
        ("https://host/a.png?X-Amz-Signature=secret", "https://host/a.png"),
        ("s3://eyes/a%20b.png", "s3://eyes/a b.png"),
    ):
        (tmp_path / "list.csv").write_text(f"path\n{row}\n")
        with raises_naming(DrtfError, shown) as caught:
            list_photographs(tmp_path / "list.csv")
        assert "secret" not in str(caught.value)


def test_csv_that_is_missing_in_a_store_is_named():
    with raises_naming(StorageError, "memory://eyes/none/list.csv"):
        list_photographs("memory://eyes/none/list.csv")
