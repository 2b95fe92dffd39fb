import pytest

from drawing import draw_fundus

pydicom = pytest.importorskip("pydicom")
from encoding_dicom import encode_dicom, patient_tags  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from drtf.images.dicom_files import read_header  # noqa: E402
from drtf.images.dicom_tags import parse_tags  # noqa: E402

FUNDUS = draw_fundus(seed=1, width=64)


def tags_of(**tags: object):
    return parse_tags(read_header(encode_dicom(FUNDUS, **tags)))


def item(**tags: object) -> list[Dataset]:
    dataset = Dataset()
    for name, value in tags.items():
        setattr(dataset, name, value)
    return [dataset]


def frame_anatomy(side: str) -> Dataset:
    return item(FrameAnatomySequence=item(FrameLaterality=side))[0]


def test_the_tags_of_a_camera_are_read():
    tags = tags_of(**patient_tags(7, "R", IssuerOfPatientID="Ward"))
    assert (tags.patient_id, tags.issuer, tags.eyes) == ("00007", "Ward", ("right",))
    assert (tags.acquired, tags.camera) == ("20240131", "Camera Works F-1")
    assert tags.kind == ""


@pytest.mark.parametrize(
    ("tags", "eye"),
    [
        ({"ImageLaterality": "L"}, "left"),
        ({"Laterality": "R"}, "right"),
        ({"ImageLaterality": "L", "Laterality": "R"}, "left"),
        ({"ImageLaterality": "B"}, ""),
        ({"ImageLaterality": "", "Laterality": "R"}, "right"),
        ({}, ""),
        (
            {
                "AnatomicRegionSequence": item(
                    AnatomicRegionModifierSequence=item(CodeValue="24028007")
                )
            },
            "right",
        ),
        (
            {
                "AnatomicRegionSequence": item(
                    AnatomicRegionModifierSequence=item(CodeValue="G-A101")
                )
            },
            "left",
        ),
        (
            {
                "ImageLaterality": "B",
                "SharedFunctionalGroupsSequence": [frame_anatomy("R")],
            },
            "right",
        ),
    ],
)
def test_the_eye_is_found_in_each_place(tags, eye):
    assert tags_of(**tags).eyes == (eye,)


def test_each_frame_has_its_own_eye():
    header = read_header(
        encode_dicom(
            FUNDUS,
            NumberOfFrames=3,
            SharedFunctionalGroupsSequence=[Dataset()],
            PerFrameFunctionalGroupsSequence=[frame_anatomy(x) for x in "LR"],
        )
    )
    assert parse_tags(header).eyes == ("left", "right", "")


@pytest.mark.parametrize("number", [2_000_000_000, -1])
def test_an_absurd_number_of_frames_counts_as_one_photograph(number):
    header = read_header(encode_dicom(FUNDUS, NumberOfFrames=number))
    assert parse_tags(header).eyes == ("",)


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.5.4"}, "tomography"),
        ({"Manufacturer": "drtf"}, "result of drtf"),
    ],
)
def test_pixels_that_are_no_photograph_are_named(tags, kind):
    assert tags_of(**tags).kind == kind
