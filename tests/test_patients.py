import pandas as pd
import pytest

from drtf.labels.patients import eyes_by_name, patients_by_name


def patients_of(*names, pattern=""):
    patients = patients_by_name(pd.Series(names, dtype=object), pattern)
    return [None if pd.isna(patient) else patient for patient in patients]


@pytest.mark.parametrize(
    ("left", "right", "patient"),
    [
        ("10_left", "10_right", "10"),
        ("10_LEFT", "10-Right", "10"),
        ("10_OS", "10_OD", "10"),
        ("10-L", "10-R", "10"),
        ("10_l1", "10_r2", "10"),
        ("10_left1", "10_right2", "10"),
        ("10_left_1", "10_right_2", "10"),
        ("10left", "10right", "10"),
        ("10L", "10R", "10"),
        ("OS_123", "OD_123", "123"),
        ("left-12", "right-12", "12"),
        ("p7 (OS)", "p7 (OD)", "p7"),
        ("p7_left (1)", "p7_right (2)", "p7"),
        ("p7 OS 20200101", "p7 OD 20200101", "p7"),
        ("p7 OS 20200101", "p7 OD 20210630", "p7"),
        ("2020-01-01_p7_OS", "2021-06-30_p7_OS", "p7"),
        ("p7_OS_01.02.2020", "p7_OD_30.06.2021", "p7"),
        ("p7 01-31-2020 OS", "p7 12-31-2021 OD", "p7"),
        ("p7_20200101_091500_OS", "p7_20210630_154559_OD", "p7"),
        ("p7 2020-01-01T09-15-00 OS", "p7 2020-01-01T09-15-30 OD", "p7"),
        ("p7_20200101091500_OS", "p7_20210630154559123_OD", "p7"),
        ("20200101_123456_OS", "20210630_123456_OD", "123456"),
        ("Doe_19580312_OS_20200101", "Doe_19580312_OD_20210630", "Doe_19580312"),
        ("p7_OS_001", "p7_OD_002", "p7"),
        ("p7_20200101_091500_L_001", "p7_20200101_091530_R_002", "p7"),
        ("p7_OS_macula", "p7_OD_macula", "p7"),
        ("p7_left - Copy", "p7_right", "p7"),
        ("p7_left_jpeg.rf.0af3e1", "p7_right_jpeg.rf.99bbcc", "p7"),
        ("p7/left_macula", "p7/right_macula", "p7"),
        ("p7_OD", "p7_OI", "p7"),
        ("p7_OD", "p7_OG", "p7"),
        ("p7_lefteye", "p7_righteye", "p7"),
        ("p7 links", "p7 rechts", "p7"),
        ("p7_izquierdo", "p7_derecho", "p7"),
        ("1000001_21015_0_0", "1000001_21016_1_0", "1000001"),
        ("20200101_OS", "20200101_OD", "20200101"),
        ("20209901 OS", "20209901 OD", "20209901"),  # not a date
        ("A.LE", "A.RE", "A"),
        ("anna/left", "anna/right", "anna"),
        ("1/1_l1", "1/1_r1", "1/1"),
        ("환자1_좌안", "환자1_우안", "환자1"),
        ("환자1-좌", "환자1-우", "환자1"),
    ],
)
def test_both_eyes_are_one_patient(left, right, patient):
    assert patients_of(left, right) == [patient, patient]


@pytest.mark.parametrize(
    "names",
    [
        ("IMG_1", "IMG_2"),
        ("0000_1", "0000_2", "0001_1"),
        ("007-0000-000", "007-0001-000"),
        ("20051020_43800_0100_PP", "20051020_43801_0100_PP"),
        ("000c1434d8d7", "001639a390f0"),
        ("1.1", "1.2", "2.1"),
        ("IM000010", "IM000011"),
        ("scan_rotated", "scan_large"),
        ("model", "period"),
        ("figure_oe", "figure_oi"),
        ("links", "droit"),
        ("site_l", "image_l"),  # no patient has both
        ("left", "right"),
    ],
)
def test_photographs_without_an_eye_are_not_joined(names):
    assert patients_of(*names) == [None] * len(names)


def test_patients_are_not_joined_when_only_dates_tell_them_apart():
    names = [f"clinic_200001{day}_{eye}" for day in range(10, 30) for eye in ("L", "R")]
    assert patients_of(*names) == [name[:-2] for name in names]


def test_patients_are_not_joined_when_the_number_after_the_eye_is_theirs():
    names = [f"OD_{n}" for n in range(30)] + [f"scan_L_{n}" for n in range(30)]
    names += ["scan_R_1", "OS_1"]
    patients = patients_of(*names)
    assert len(set(patients)) == 60
    assert patients[-1] == patients[1] == "1"
    many = [f"study2_{eye}{n}" for eye in "lr" for n in range(40)]
    assert len(set(patients_of(*many))) == 40


@pytest.mark.parametrize("after", ["macula", "600-FA", "180", "2nd"])
def test_fields_of_view_and_copies_of_a_patient_are_joined(after):
    names = [f"{n}_{eye}" for n in (10, 13, 15) for eye in ("left", "right")]
    copies = [f"{name}_{after}" for name in names]
    assert patients_of(*names, *copies) == ["10", "10", "13", "13", "15", "15"] * 2


@pytest.mark.parametrize("name", ["site1_{}_{:04}", "fundus_{}_{:04}", "study_{}_p{}"])
def test_patients_are_not_joined_when_they_are_named_after_the_eye(name):
    names = [name.format(eye, n) for n in range(3) for eye in ("OS", "OD")]
    patients = patients_of(*names)
    assert len(set(patients)) == 3
    assert patients[::2] == patients[1::2]


def test_persons_of_one_name_are_told_apart_by_their_dates_of_birth():
    names = ["Doe_19580312_OS_20200101", "Doe_19610312_OS_20200101"]
    assert patients_of(*names) == ["Doe_19580312", "Doe_19610312"]


def test_names_of_the_uk_biobank_have_an_eye():
    names = pd.Series(["1000001_21015_0_0", "1000001_21016_0_0"])
    assert eyes_by_name(names).tolist() == ["left", "right"]


def test_pattern_of_the_config_comes_first():
    assert patients_of("a-1_left", "b", pattern="^(.)-") == ["a", None]
    assert patients_of("a", "xb", pattern="^(x)?.*") == [None, "x"]
