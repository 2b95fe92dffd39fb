"""The service: the same rows as drtf score, limits, refusals, and its pages."""

import asyncio
import base64
import csv
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import get_args

import cv2
import google_crc32c
import numpy as np
import pytest
from browser import Browser, find_browser
from crashing import crash
from encoding_dicom import encode_dicom, patient_tags
from fastapi.testclient import TestClient

from drawing import draw_fundus, encode
from drtf.clinic.patient_texts import LANGUAGES
from drtf.errors import DrtfError
from drtf.images.decode import decode_photograph
from drtf.images.gradability import Flag
from drtf.models.fellow_eye import FellowEye
from drtf.models.quality_gate import QUALITY_GATE
from drtf.photographs.uploads import photograph_from_bytes
from drtf.scoring.score_check import FLAG_NOTES
from drtf.scoring.score_table import VIEWS_DISAGREE, encode_row, parse_row
from drtf.scoring.scorer import load_scorer
from drtf.scoring.scoring import score
from drtf.serving import model_service
from drtf.serving.answers import model_answer
from drtf.serving.app import build_app
from drtf.serving.limits import Limits
from drtf.serving.model_service import Answer, open_service
from drtf.serving.origins import LOOPBACK_NAMES
from drtf.serving.pages import API_PAGE, START_PAGE, load_page
from drtf.serving.server import load_token
from naming import assert_names, raises_naming

TOKEN = "a-token-of-this-test"
SECRET = "name-of-a-person"
POST_SCORE = {
    "type": "http",
    "method": "POST",
    "path": "/score",
    "raw_path": b"/score",
    "query_string": b"",
    "http_version": "1.1",
    "headers": [(b"content-type", b"multipart/form-data; boundary=x")],
}


@pytest.fixture(scope="module")
def served_run(run_folder, save_rule, tmp_path_factory):
    """A run that combines both eyes."""
    folder = tmp_path_factory.mktemp("served") / "run"
    shutil.copytree(run_folder, folder)
    both = FellowEye(offset=0.1, own=0.7, fellow=0.3, num_pairs=30)
    save_rule(folder, 0.5, tta="flips5", fellow_eye=both)
    return folder


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """Both eyes of a patient, an eye of another, and files without a photograph."""
    folder = tmp_path_factory.mktemp("eyes")
    names = ("17_left.png", "17_right.png", "18_left.png", "=1,눈.png")
    for seed, name in enumerate(names):
        (folder / name).write_bytes(encode(draw_fundus(seed=seed)))
    (folder / "cut.png").write_bytes((folder / names[0]).read_bytes()[:200])
    (folder / "empty.png").write_bytes(b"")
    frames = np.stack([draw_fundus(seed=seed) for seed in (5, 6)])
    tags = {"PatientID": "P-19", "ImageLaterality": "R"}
    (folder / "two.dcm").write_bytes(encode_dicom(frames, **tags))
    return folder


@pytest.fixture(scope="module")
def table(served_run, eyes, config, tmp_path_factory, _key_folder):
    out = tmp_path_factory.mktemp("table") / "scores.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DRTF_PATIENT_KEY", str(_key_folder / "patient.key"))
        score(served_run, eyes, out=out, config=config.score)
    return out


@pytest.fixture(scope="module")
def service(served_run, config):
    with open_service(load_scorer(served_run, config.score)) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    with TestClient(build_app(service, limits=Limits())) as client:
        yield client


def uploads(folder):
    # As drtf score lists them.
    paths = sorted(folder.iterdir(), key=lambda path: path.name)
    return [("photograph", (path.name, path.read_bytes())) for path in paths]


def test_a_request_gives_the_table_of_drtf_score(client, eyes, table):
    answer = client.post("/score", files=uploads(eyes))
    assert answer.status_code == 200
    content = answer.json()
    assert content["table"].encode() == table.read_bytes()
    with table.open(encoding="utf-8-sig", newline="") as file:
        expected = list(csv.DictReader(file))
    for cells, row in zip(expected, content["rows"], strict=True):
        assert cells.keys() == row.keys()
        for name, cell in cells.items():
            value = row[name]
            if value is None:
                assert cell == ""
            else:
                assert (cell if isinstance(value, str) else float(cell)) == value
    assert [bool(row["error"]) for row in content["rows"]].count(True) == 2
    assert [row["fellow_used"] for row in expected].count("1") == 2
    patient = next(x for x in content["patients"] if x["patient"] == "17")
    own = [row for row in content["rows"] if row["patient"] == "17"]
    assert patient["both_eyes"] == 1
    assert patient["worse_eye"] == max(own, key=lambda row: row["score"])["eye"]
    assert content["overlays"] == []


def test_requests_one_by_one_complete_to_the_table_of_drtf_score(client, eyes, table):
    header, lines = "", []
    for upload in reversed(uploads(eyes)):
        text = client.post("/score", files=[upload]).json()["uncombined"]
        header, *own = text.splitlines(keepends=True)
        lines += own
    body = "".join([header, *lines]).encode()
    answer = client.post("/table", content=body)
    assert answer.status_code == 200
    assert answer.content == table.read_bytes()


def test_patients_who_differ_only_by_dates_stay_apart(service, eyes):
    data = (eyes / "17_left.png").read_bytes()
    names = [f"scan_2024-01-{day:02d}_left.png" for day in range(1, 23)]
    files = [("photograph", (name, data)) for name in names]
    app = build_app(service, limits=Limits(max_photographs=len(files)))
    with TestClient(app) as client:
        together = client.post("/score", files=files).json()["table"]
        answers = [client.post("/score", files=[file]).json() for file in files]
        header, *_ = answers[0]["uncombined"].splitlines(keepends=True)
        lines = [x["uncombined"].splitlines(keepends=True)[1] for x in answers]
        body = "".join([header, *lines]).encode()
        assert client.post("/table", content=body).text == together


def with_checksum(content):
    return b"%s,%08x\n" % (content, google_crc32c.value(content))


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("own_score", "high"),
        ("own_score", "nan"),
        ("own_score", "1e300"),
        ("own_score", "-0.5"),
        ("threshold", "low"),
        ("num_views", "inf"),
    ],
)
def test_a_made_up_table_is_refused(client, table, column, cell):
    lines = table.read_bytes().splitlines(keepends=True)
    row = next(x for x in map(parse_row, lines[1:]) if x["score"])
    lines[1] = encode_row(row | {column: cell})
    answer = client.post("/table", content=b"".join(lines[:2]))
    assert answer.status_code == 422
    assert_names(answer.json()["detail"], column, 2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [],
        lambda lines: lines[:1],
        lambda lines: [lines[0], lines[1].replace(b"left", b"LEFT")],
        lambda lines: [*lines, lines[1]],
        lambda lines: [lines[0], b"\xff\xfe,\n"],
        lambda lines: [lines[0], with_checksum(b'"' + b"x" * 200_000 + b'"')],
        lambda lines: [lines[0], with_checksum(b"\xff" + b"," * 22)],
        lambda lines: [lines[0], with_checksum(b"")],
    ],
    ids=["empty", "rowless", "changed", "twice", "binary", "long", "not_utf8", "blank"],
)
def test_a_damaged_table_is_refused(client, table, damage):
    lines = table.read_bytes().splitlines(keepends=True)
    answer = client.post("/table", content=b"".join(damage(lines)))
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_eyes_and_patients_may_be_stated(client, eyes):
    files = [("photograph", (n, (eyes / f"17_{n}.png").read_bytes())) for n in EYES]
    data = {"patient": ["7", "7"], "eye": ["right", "left"]}
    content = client.post("/score", files=files, data=data).json()
    assert [row["eye"] for row in content["rows"]] == ["right", "left"]
    assert [row["fellow_used"] for row in content["rows"]] == [1, 1]
    assert content["patients"][0]["patient"] == "7"
    for wrong in ({"eye": ["left"]}, {"eye": ["left", "up"]}, {"patient": ["1"] * 3}):
        assert client.post("/score", files=files, data=wrong).status_code == 422


EYES = ("left", "right")


def test_tags_of_dicom_files_state_the_eye_and_a_pseudonym(client):
    fundus = draw_fundus(seed=1)
    files = [
        ("photograph", (f"{n}.dcm", encode_dicom(fundus, **patient_tags(7, side))))
        for n, side in enumerate("LR")
    ]
    content = client.post("/score", files=files).json()
    assert [row["eye"] for row in content["rows"]] == ["left", "right"]
    assert [row["fellow_used"] for row in content["rows"]] == [1, 1]
    (patient,) = content["patients"]
    assert patient["patient"] not in ("", "00007")


def test_a_dicom_file_that_crashes_its_process_does_not_hurt_the_service(
    client, eyes, monkeypatch
):
    monkeypatch.setattr(model_service, "open_dicom", crash)
    files = [
        ("photograph", (name, (eyes / name).read_bytes()))
        for name in ("17_left.png", "two.dcm")
    ]
    answer = client.post("/score", files=files)
    assert answer.status_code == 200
    good, bad = answer.json()["rows"]
    assert (good["error"], bad["path"]) == ("", "two.dcm")
    assert bad["error"].startswith("unprocessable")
    monkeypatch.undo()
    (row, _) = client.post("/score", files=files[1:]).json()["rows"]
    assert not row["error"]


def test_an_overlay_is_a_picture_for_each_photograph_with_a_score(client, eyes):
    content = client.post("/score?overlay=true", files=uploads(eyes)).json()
    has_overlay = [overlay is not None for overlay in content["overlays"]]
    assert has_overlay == [not row["error"] for row in content["rows"]]
    for overlay in filter(None, content["overlays"]):
        pictures = [
            decode_photograph(base64.b64decode(overlay[name])).image
            for name in ("picture", "overlay")
        ]
        assert pictures[0].shape == pictures[1].shape == (512, 512, 3)


def test_an_overlay_has_the_colors_of_what_its_row_says(service, eyes, monkeypatch):
    files = [("photograph", (n, (eyes / f"17_{n}.png").read_bytes())) for n in EYES]
    data = {"patient": ["7", "7"], "eye": ["right", "left"]}

    def answer(threshold):
        config = service.scorer.config.model_copy(update={"threshold": threshold})
        monkeypatch.setattr(service, "scorer", replace(service.scorer, config=config))
        with TestClient(build_app(service, limits=Limits())) as client:
            return client.post("/score?overlay=true", files=files, data=data).json()

    rows = answer(0.5)["rows"]
    # Between the score of an eye and that of both.
    threshold = (rows[0]["own_score"] + rows[0]["score"]) / 2
    content = answer(threshold)
    for row, overlay in zip(content["rows"], content["overlays"], strict=True):
        picture, image = (
            decode_photograph(base64.b64decode(overlay[name])).image.astype(int)
            for name in ("picture", "overlay")
        )
        added = (image - picture).reshape(-1, 3)
        colored = np.ptp(added[np.abs(added).sum(axis=1) > 30], axis=1)
        assert (np.median(colored) > 20) == (row["predicted_label"] == 1)


def test_wrong_requests_are_refused(service, eyes):
    limits = Limits(max_photographs=2, max_request_bytes=500_000)
    photograph = (eyes / "17_left.png").read_bytes()
    with TestClient(build_app(service, limits=limits)) as client:

        def status(*photographs, **options):
            files = [("photograph", item) for item in photographs]
            return client.post("/score", files=files, **options).status_code

        assert status(("a.png", photograph), ("b.png", photograph)) == 200
        assert status(("a.png", photograph), ("a.png", photograph)) == 422
        assert status(*[(f"{n}.png", b"") for n in range(3)]) == 422
        assert status(("a.png", bytes(600_000))) == 413
        assert client.post("/score").status_code == 415
        assert client.post("/score", data={"photograph": "a"}).status_code == 415
        form = {"Content-Type": "multipart/form-data; boundary=x"}
        for body in (b"", b"--x--\r\n", b"--x\r\nnonsense", b"\xff" * 100):
            answer = client.post("/score", content=body, headers=form)
            assert answer.status_code == 422
        form = {"Content-Type": "multipart/form-data"}
        assert client.post("/score", content=b"", headers=form).status_code == 422
        answer = client.post("/score?overlay=perhaps", files=uploads(eyes)[:1])
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith("overlay")
        assert client.get("/score").status_code == 405
        assert client.get("/photographs").status_code == 404


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("photos\\a.png", "photos/a.png"),
        ("s3://bucket/a.png", "s3:/bucket/a.png"),
        ("..", "photograph-1"),
        ("x" * 300 + ".png", "x" * 196 + ".png"),
        ("a\x00b.png", None),
    ],
)
def test_names_of_files_are_only_names(client, eyes, name, path):
    photograph = (eyes / "17_left.png").read_bytes()
    answer = client.post("/score", files=[("photograph", (name, photograph))])
    assert answer.status_code == 200
    (row,) = answer.json()["rows"]
    assert not row["error"]
    assert path is None or row["path"] == path


def test_more_requests_than_may_wait_are_refused(service, eyes, monkeypatch):
    waiting: list[Future[Answer]] = []
    arrived = threading.Event()

    def submit(photograph, **_):
        waiting.append(Future())
        arrived.set()
        return waiting[-1]

    files = [("photograph", ("a.png", (eyes / "17_left.png").read_bytes()))]
    answer = service.submit(*photographs_in(files)).result()
    monkeypatch.setattr(service, "submit", submit)
    app = build_app(service, limits=Limits(max_waiting=1))
    with TestClient(app) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/score", files=files)
        assert arrived.wait(60)
        refused = client.post("/score", files=files)
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, "1")
        waiting[0].set_result(answer)
        assert first.result().status_code == 200


def test_requests_that_are_arriving_take_no_place(service, eyes):
    photograph = (eyes / "17_left.png").read_bytes()
    limits = Limits(max_waiting=1, max_request_bytes=len(photograph) + 1000)
    app = build_app(service, limits=limits)
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="a.png"\r\n\r\n'

    async def post(content, *, is_waiting=None):
        """Send a request; with an event, its body stops after the first part."""
        more = is_waiting is not None
        parts = [{"type": "http.request", "body": head + content, "more_body": more}]
        statuses = []

        async def receive():
            if not parts:
                if is_waiting:
                    is_waiting.set()
                await asyncio.sleep(60)
            return parts.pop()

        async def send(message):
            statuses.append(message.get("status"))

        await app(POST_SCORE, receive, send)
        return statuses[0]

    async def post_beside_slow_ones(content):
        slow = []
        for _ in range(3):
            is_waiting = asyncio.Event()
            slow.append(asyncio.create_task(post(content, is_waiting=is_waiting)))
            await is_waiting.wait()
        status = await post(photograph + b"\r\n--x--\r\n")
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        return status

    assert asyncio.run(post_beside_slow_ones(b"")) == 200
    # Their bytes are limited together.
    assert asyncio.run(post_beside_slow_ones(photograph[::2])) == 429
    assert asyncio.run(post_beside_slow_ones(b"")) == 200


def photographs_in(files):
    return [photograph_from_bytes(*item) for _, item in files]


def test_a_request_that_takes_too_long_is_refused(service, eyes, monkeypatch):
    pending: Future[Answer] = Future()
    monkeypatch.setattr(service, "submit", lambda *_, **__: pending)
    with TestClient(build_app(service, limits=Limits(timeout_seconds=0.1))) as client:
        answer = client.post("/score", files=uploads(eyes)[:1])
    assert answer.status_code == 503
    assert pending.cancelled()


def test_photographs_that_nobody_waits_for_are_not_scored(service, eyes, monkeypatch):
    is_busy, may_go_on = threading.Event(), threading.Event()
    predict, scored = service.scorer.predict_batch, []

    def predict_slowly(items):
        is_busy.set()
        assert may_go_on.wait(60)
        scored.extend(item.path for item in items)
        return predict(items)

    def submit(name):
        data = (eyes / "17_left.png").read_bytes()
        return service.submit(photograph_from_bytes(name, data))

    monkeypatch.setitem(vars(service.scorer), "predict_batch", predict_slowly)
    first = submit("1.png")
    assert is_busy.wait(60)
    late = submit("2.png")
    while service._ready.empty():
        time.sleep(0.01)
    assert late.cancel()
    last = submit("3.png")
    may_go_on.set()
    assert [first.result().row["path"], last.result().row["path"]] == scored
    assert scored == ["1.png", "3.png"]


def test_a_client_that_is_too_slow_is_refused(service):
    app = build_app(service, limits=Limits(timeout_seconds=0.1))
    sent = []

    async def receive():
        await asyncio.sleep(60)

    async def send(message):
        sent.append(message)

    asyncio.run(app(POST_SCORE, receive, send))
    assert sent[0]["status"] == 408


def test_a_client_that_closes_the_connection_is_no_bug(service, caplog):
    app = build_app(service, limits=Limits())

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        pass

    asyncio.run(app(POST_SCORE, receive, send))
    assert not [x for x in caplog.records if x.name.startswith("drtf")]


def test_a_failure_of_the_machine_is_no_fault_of_a_photograph(
    service, eyes, monkeypatch
):
    failed: Future[Answer] = Future()
    failed.set_exception(DrtfError(f"{SECRET}: memory ran out"))
    monkeypatch.setattr(service, "submit", lambda *_, **__: failed)
    with TestClient(build_app(service, limits=Limits())) as client:
        answer = client.post("/score", files=uploads(eyes)[:1])
    assert answer.status_code == 503


def test_a_key_of_pseudonyms_that_cannot_be_used_is_no_lack_of_memory(
    client, eyes, monkeypatch, caplog
):
    monkeypatch.setenv("DRTF_PATIENT_KEY", str(eyes / "empty.png"))
    files = [("photograph", ("two.dcm", (eyes / "two.dcm").read_bytes()))]
    answer = client.post("/score", files=files)
    assert answer.status_code == 503
    assert "memory" not in answer.json()["detail"]
    assert_names(caplog.text, eyes / "empty.png")


def test_logs_name_no_file_and_a_bug_shows_no_message(
    service, eyes, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    files = [("photograph", (f"{SECRET}.png", (eyes / "cut.png").read_bytes()))]

    def fail(rows):
        raise ValueError(SECRET)

    with TestClient(build_app(service, limits=Limits())) as client:
        headers = {"X-Patient": SECRET, "Cookie": SECRET}
        answer = client.post(f"/score?{SECRET}", files=files, headers=headers)
        assert answer.status_code == 200
        assert SECRET in answer.json()["rows"][0]["path"]
        assert client.get(f"/{SECRET}").status_code == 404
        monkeypatch.setattr(type(service.scorer), "complete_lines", lambda *_: fail(_))
        assert client.post("/score", files=files).status_code == 500
        counters = client.get("/metrics").text
    ours = [x.getMessage() for x in caplog.records if x.name.startswith("drtf")]
    assert len(ours) == 2
    assert "ValueError" in ours[1]
    assert SECRET not in "".join(ours) + counters
    assert 'drtf_requests_total{route="other",status="404"} 1.0' in counters
    assert 'drtf_photographs_total{result="undecodable"} 1.0' in counters


def test_photographs_are_never_written_to_the_disk(client, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a file was opened")

    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    data = bytes(cv2.imencode(".png", noise)[1])
    assert len(data) > 2_000_000
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(tempfile, "_TemporaryFileArgs", refuse, raising=False)
    answer = client.post("/score", files=[("photograph", ("a.png", data))])
    assert answer.status_code == 200


def test_a_token_guards_all_but_pages_and_health(service, eyes):
    with TestClient(build_app(service, limits=Limits(), token=TOKEN)) as client:
        for path in ("/model", "/metrics"):
            assert client.get(path).status_code == 401
        for path in ("/health", "/", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 200
        files = uploads(eyes)[:1]
        assert client.post("/score", files=files).status_code == 401
        for wrong in (f"Bearer {TOKEN}x", "Bearer é", f"Basic {TOKEN}", TOKEN):
            headers = {"Authorization": wrong.encode()}
            assert client.get("/model", headers=headers).status_code == 401
        headers = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/model", headers=headers).status_code == 200
        assert client.post("/score", files=files, headers=headers).status_code == 200


def test_a_service_without_a_token_is_called_by_names_of_this_machine(service):
    app = build_app(service, limits=Limits(), hosts=LOOPBACK_NAMES)
    with TestClient(app) as client:
        for name, status in (
            ("127.0.0.1:8000", 200),
            ("localhost:8000", 200),
            ("[::1]:8000", 200),
            ("rebound.example:8000", 400),
            ("127.0.0.1.rebound.example", 400),
        ):
            assert client.get("/model", headers={"Host": name}).status_code == status
        headers = {"Host": "localhost:8000", "Origin": "http://rebound.example"}
        assert client.post("/table", headers=headers).status_code == 403
    with TestClient(build_app(service, limits=Limits(), token=TOKEN)) as client:
        headers["Authorization"] = f"Bearer {TOKEN}"
        assert client.post("/table", headers=headers).status_code == 422


def test_a_token_file_has_one_long_word(tmp_path):
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert load_token(path) == TOKEN
    for text in (
        "",
        "short",
        "two words of a long sentence",
        "é" * 20,
        f"{TOKEN}\n{TOKEN}",
    ):
        path.write_text(text)
        with raises_naming(DrtfError, path):
            load_token(path)


def test_the_model_is_described(client, served_run):
    model = client.get("/model").json()
    info = json.loads((served_run / "run.json").read_text())
    assert model["model_sha256"] == info["model_sha256"]
    assert (model["threshold"], model["combines_eyes"]) == (0.5, True)
    assert model["num_views"] == 5


def test_a_given_threshold_has_no_source_and_no_evaluations(served_run, config):
    given = config.score.model_copy(update={"threshold": 0.3})
    scorer = load_scorer(served_run, given)
    model = model_answer(scorer, limits=Limits(), version="1")
    assert (model.threshold, model.threshold_rule) == (0.3, "given")
    assert (model.threshold_source, model.evaluations) == ("", [])


@pytest.mark.parametrize("name", [START_PAGE, API_PAGE])
def test_pages_load_nothing_from_elsewhere(client, name):
    page = load_page(name)
    answer = client.get("/" if name == START_PAGE else "/docs")
    assert answer.text == page.html
    assert answer.headers["Content-Security-Policy"] == page.policy
    assert "default-src 'none'" in page.policy
    assert not re.search(r"https?:|//\w|url\(|@import|\bimport\b", page.html)
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:,)", page.html)


def test_both_languages_of_the_page_have_the_same_texts():
    html = load_page(START_PAGE).html
    english, korean = re.search(
        r"  en: \{(.*?)\n  ko: \{(.*?)\n};", html, re.S
    ).groups()
    names = [re.sub(r'"[^"]*"', '""', text) for text in (english, korean)]
    keys = [re.findall(r"\b(\w+): [\"{]", text) for text in names]
    assert keys[0] == keys[1]
    places = [re.findall(r"\{(\w+)\}", text) for text in (english, korean)]
    assert sorted(places[0]) == sorted(places[1])
    assert set(re.findall(r'data-(?:text|label)="(\w+)"', html)) <= set(keys[0])


def test_the_page_has_the_words_of_the_patients_pages_for_each_flag():
    html = load_page(START_PAGE).html
    for texts in LANGUAGES.values():
        assert {*texts.flags} == {*get_args(Flag), QUALITY_GATE, VIEWS_DISAGREE}
        assert {*texts.doubts} == {*FLAG_NOTES}
        assert all(x in html for x in (*texts.flags.values(), *texts.doubts.values()))


@contextmanager
def running(run, *options):
    """Run drtf serve in a process; yield it and its URL."""
    code = "import sys; from drtf.tools.main import main; main()"
    command = [sys.executable, "-c", code, "serve", run, "--port", "0", *options]
    settings = ["--set", "score.num_workers=1", "--set", "score.on_ungradable=predict"]
    with subprocess.Popen(
        [*map(str, command), *settings], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, process.stdout.readline().split()[0]
        finally:
            process.kill()


def test_the_page_in_a_browser_and_the_end_by_sigterm(
    served_run, eyes, table, tmp_path, capfd
):
    with running(served_run) as (process, url):
        if find_browser():
            check_page(url, eyes, table, tmp_path)
        with urllib.request.urlopen(f"{url}/health") as answer:
            assert json.load(answer) == {"status": "ok"}
        bad = urllib.request.Request(f"{url}/score", SECRET.encode())
        bad.add_header("Content-Type", "multipart/form-data; boundary=x")
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(bad)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    # What libraries log about a bad request.
    assert "xpected boundary" not in capfd.readouterr().err
    if not find_browser():
        pytest.skip("the page was not tested: there is no Chromium or Chrome")


def check_page(url, eyes, table, tmp_path):
    with Browser(tmp_path / "profile") as browser:
        browser.open(url)
        browser.wait_for("model !== null")
        browser.choose_files("#single-files", sorted(eyes.glob("17_*")))
        browser.wait_for("single !== null")
        row = browser.evaluate("single.rows[0]")
        shown = browser.evaluate("document.getElementById('single').innerText")
        assert "17_left.png" in shown
        assert f"{row['score']:.3f}" in shown
        assert (
            browser.evaluate("document.querySelectorAll('.pictures img').length") == 4
        )
        browser.evaluate("document.querySelector('[data-language=ko]').click()")
        assert browser.evaluate("document.documentElement.lang") == "ko"
        assert "왼쪽 눈" in browser.evaluate(
            "document.getElementById('single').innerText"
        )
        # By keyboard: to the next tab and back.
        browser.evaluate("document.getElementById('tab-single').focus()")
        browser.press("ArrowRight")
        assert browser.evaluate("document.activeElement.id") == "tab-batch"
        assert browser.evaluate("!document.getElementById('batch').hidden")
        browser.evaluate(
            "window.sent = fetch; fetch = (path, ...rest) => "
            "path === '/table' ? Promise.reject(new TypeError()) : sent(path, ...rest)"
        )
        browser.choose_files("#batch-files", sorted(eyes.iterdir()))
        browser.wait_for("batch && !batch.isRunning")
        # The rows stay if the table fails, and it can be made again.
        assert browser.evaluate("batch.rows.length && !batch.table")
        assert not browser.evaluate("document.getElementById('batch-again').hidden")
        browser.evaluate("fetch = sent, document.getElementById('batch-again').click()")
        browser.wait_for("!batch.isRunning")
        assert browser.evaluate("document.getElementById('batch-again').hidden")
        text = table.read_text(encoding="utf-8-sig")  # as `text` returns it
        assert browser.evaluate("batch.table.text()") == text
        assert browser.evaluate("batch.rows.length") == len(text.splitlines()) - 1
        assert browser.evaluate("document.getElementById('batch-csv').download")
        files = [eyes / "two.dcm", eyes / "18_left.png"]
        browser.choose_files("#single-files", files)
        browser.wait_for("single?.rows.length === 3")
        names = "Array.from(document.querySelectorAll('.name'), (x) => x.innerHTML)"
        assert browser.evaluate(names) == [
            *("two.dcm#frame=1", "two.dcm#frame=2"),
            "18_left.png",
        ]
        browser.open(f"{url}/docs")
        browser.wait_for("document.getElementById('operations').className")
        assert "/score" in browser.evaluate("document.body.innerText")
        requests = [x for x in browser.requests if not x.startswith(("data:", "blob:"))]
        assert all(x.startswith(url) for x in requests)
        assert browser.problems == []
