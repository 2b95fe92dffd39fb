import pytest

from drawing import draw_fundus, encode
from drtf.bench import convert
from drtf.bench.convert import bench_convert
from drtf.config import ImagesConfig
from drtf.errors import DrtfError
from naming import raises_naming


@pytest.fixture
def images(tmp_path):
    for number in range(3):
        data = encode(draw_fundus(seed=number, width=640), ".jpg")
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "other.png").write_bytes(encode(draw_fundus(seed=9)))
    return tmp_path


@pytest.mark.parametrize("crop", ["none", "retina"])
def test_all_ways_are_measured_side_by_side(images, monkeypatch, crop):
    monkeypatch.setattr(convert, "NUM_CONVERTED", 4)
    found = bench_convert(
        images, config=ImagesConfig(size=32, crop=crop), limit=9, num_repeats=2
    )
    assert found.num_photographs == 3
    names = [method.name for method in found.methods]
    assert names[:3] == ["scaled decode alone", "drtf, scaled", "drtf, exact"]
    assert all(len(method.cpu_ms) == 2 for method in found.methods)
    assert found.methods[0].psnr_db == []
    assert all(len(method.psnr_db) == 3 for method in found.methods[1:])
    # The last way is the one that the others are compared with.
    assert min(found.methods[-1].psnr_db) > 300
    if crop == "none":
        exact, whole = found.methods[2].psnr_db, found.methods[3].psnr_db
        assert exact == pytest.approx(whole)
    assert {1, 2} <= {pool.num_workers for pool in found.pools}
    assert all(rate > 0 for pool in found.pools for rate in pool.per_second)


def test_what_is_not_compared_is_refused(images):
    with raises_naming(DrtfError, "images.contrast", "none"):
        bench_convert(
            images, config=ImagesConfig(contrast="none"), limit=3, num_repeats=1
        )


def test_a_folder_without_a_jpeg_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(draw_fundus(seed=1)))
    with raises_naming(DrtfError, tmp_path, "JPEG"):
        bench_convert(tmp_path, config=ImagesConfig(), limit=3, num_repeats=1)
