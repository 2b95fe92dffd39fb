import pytest

from drawing import encode
from drtf.bench.quality import bench_quality
from drtf.errors import LabelError
from drtf.synthetic import draw_photograph
from naming import raises_naming


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for seed in range(3):
        image = draw_photograph(1, patient_seed=seed, eye="left", seed=0).image
        (folder / f"{seed}_left.png").write_bytes(encode(image[::2, ::2]))
    (folder / "3_left.png").write_bytes(b"")
    return folder


def test_degraded_photographs_are_flagged_and_good_ones_are_not(images, tmp_path):
    judged = tmp_path / "judged.csv"
    judged.write_text("image,gradable\n0_left,1\n1_left,0\n9_left,0\n")
    found = {
        kind.name: kind for kind in bench_quality(images, judged=judged, num_workers=1)
    }
    assert found["as it is"].num_photographs == 3
    assert found["as it is"].num_flagged == 0
    assert found["blurred, sigma 6 px of 256"].num_by_flag["blurred"] == 3
    assert found["darkened to 20%"].num_by_flag["too_dark"] == 3
    assert found["judged gradable"].num_photographs == 1
    assert found["judged ungradable"].num_photographs == 1


def test_verdicts_that_can_not_be_read_are_named(images, tmp_path):
    judged = tmp_path / "judged.csv"
    judged.write_text("image,good\n0_left,1\n")
    with raises_naming(LabelError, judged, "image", "gradable", 0, 1):
        bench_quality(images, judged=judged)
    judged.write_text("image,gradable\n9_left,1\n")
    with raises_naming(LabelError, judged, images):
        bench_quality(images, judged=judged)


def test_a_folder_that_can_not_be_read_is_told(tmp_path):
    (tmp_path / "0_left.png").write_bytes(b"")
    with raises_naming(LabelError, tmp_path):
        bench_quality(tmp_path, judged=None, num_workers=1)
