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
    (tmp_path / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "other.png").write_bytes(encode(draw_fundus(seed=9)))
    return tmp_path


@pytest.mark.parametrize("crop", ["none", "retina"])
def test_all_methods_are_measured_on_the_same_photographs(images, monkeypatch, crop):
    monkeypatch.setattr(convert, "NUM_CONVERTED", 4)
    bench = bench_convert(
        images, config=ImagesConfig(size=32, crop=crop), limit=9, num_repeats=2
    )
    assert bench.num_photographs == 3
    names = [method.name for method in bench.methods]
    assert names[:3] == ["decoding only, scaled", "drtf, scaled", "drtf, exact"]
    assert all(len(method.cpu_ms) == 2 for method in bench.methods)
    assert bench.methods[0].psnr_db == []
    assert all(len(method.psnr_db) == 3 for method in bench.methods[1:])
    # The last method is the reference.
    assert min(bench.methods[-1].psnr_db) > 300
    if crop == "none":
        exact, full_size = bench.methods[2].psnr_db, bench.methods[3].psnr_db
        assert exact == pytest.approx(full_size)
    assert {1, 2} <= {pool.num_workers for pool in bench.pools}
    assert all(rate > 0 for pool in bench.pools for rate in pool.images_per_second)


def test_a_config_without_clahe_is_refused(images):
    with raises_naming(DrtfError, "images.contrast", "none"):
        bench_convert(
            images, config=ImagesConfig(contrast="none"), limit=3, num_repeats=1
        )


def test_a_folder_without_a_jpeg_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(draw_fundus(seed=1)))
    with raises_naming(DrtfError, tmp_path, "JPEG"):
        bench_convert(tmp_path, config=ImagesConfig(), limit=3, num_repeats=1)
