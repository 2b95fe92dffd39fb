import json
from typing import get_args

import pytest
from click.testing import CliRunner

from drawing import encode
from drtf.bench.quality import bench_quality
from drtf.errors import LabelError
from drtf.images.gradability import Flag
from drtf.synthetic import draw_photograph
from drtf.tools.bench import bench
from naming import raises_naming


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        image = draw_photograph(1, patient_seed=seed, eye="left", seed=0).image
        (folder / f"{seed}_left.png").write_bytes(encode(image[::2, ::2]))
    (folder / "3_left.png").write_bytes(b"")
    return folder


def test_degraded_photographs_are_flagged_and_originals_are_not(images, tmp_path):
    gradable = tmp_path / "gradable.csv"
    gradable.write_text("image,gradable\n0_left,1\n1_left,0\n9_left,0\n")
    groups = bench_quality(images, gradable=gradable, num_workers=1)
    counts = {group.group: group for group in groups}
    assert counts["unchanged"].num_photographs == 3
    assert counts["unchanged"].num_flagged == 0
    assert counts["blurred, sigma 6 px of 256"].num_by_flag["blurred"] == 3
    assert counts["darkened to 20%"].num_by_flag["too_dark"] == 3
    assert counts["gradable"].num_photographs == 1
    assert counts["ungradable"].num_photographs == 1


def test_the_json_file_has_a_row_per_group_and_all_flags(images, tmp_path):
    path = tmp_path / "quality.json"
    command = ["quality", "--images", str(images), "--json", str(path)]
    result = CliRunner().invoke(bench, command)
    assert result.exit_code == 0, result.output
    unchanged, *degraded = json.loads(path.read_text())
    assert unchanged["group"] == "unchanged"
    assert unchanged["num_by_flag"] == dict.fromkeys(get_args(Flag), 0)
    assert all(group["num_photographs"] == 3 for group in degraded)


def test_an_unusable_csv_of_assessments_is_named(images, tmp_path):
    gradable = tmp_path / "gradable.csv"
    gradable.write_text("image,sharp\n0_left,1\n")
    with raises_naming(LabelError, gradable, "gradable", "sharp"):
        bench_quality(images, gradable=gradable)
    gradable.write_text("image,gradable\n9_left,1\n")
    with raises_naming(LabelError, gradable, "9_left"):
        bench_quality(images, gradable=gradable)


def test_a_folder_without_a_readable_photograph_is_refused(tmp_path):
    (tmp_path / "0_left.png").write_bytes(b"")
    with raises_naming(LabelError, tmp_path):
        bench_quality(tmp_path, gradable=None, num_workers=1)
