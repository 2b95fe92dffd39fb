"""The words of a patient's page, in each language."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Texts:
    """The words of a page; names in braces are filled in."""

    title: str
    research: str
    patient: str
    unknown_patient: str
    made: str
    positive: str
    negative: str
    one_eye_negative: str
    no_result: str
    score: str
    probability: str
    similar: str
    not_similar: str
    unlike_similar: str
    unlikely: str
    likely: str
    grade: str
    rule: str
    accuracy: str
    useless: str
    no_accuracy: str
    right: str
    left: str
    unknown_eye: str
    unknown_eyes: str
    results: dict[str, str]
    flags: dict[str, str]
    doubts: dict[str, str]
    in_training: str
    no_remarks: str
    columns: tuple[str, ...]
    photograph: str
    overlay: str
    gone: str
    heat: str
    more: str
    later: str
    model: str
    limits: str
    diseases: dict[str, str]


ENGLISH = Texts(
    title="Retinal photographs: diabetic retinopathy",
    research="For research only. Not for diagnosis.",
    patient="Patient",
    unknown_patient="unknown ({name})",
    made="Page made on {date}",
    positive="Above the threshold: {disease} is suspected",
    negative="Below the threshold: {disease} is not suspected",
    one_eye_negative="Below the threshold in one eye; the other eye has no result",
    no_result="No result: none of the photographs can be used",
    score="Highest score of the photographs with a result: {score}, threshold "
    "{threshold}.",
    probability="Estimated probability: {probability}.",
    similar="Of the photographs on which the model was calibrated, {total} had similar "
    "scores, {positive} of them positive: {value} (95 % interval {low} to {high}).",
    not_similar="No photograph with a similar score is known.",
    unlike_similar="The estimate lies outside this interval, because it was fitted to "
    "all scores: take it as rough.",
    unlikely="“Suspected” means only that the score is above the threshold: by this "
    "probability, disease is less likely than not.",
    likely="“Not suspected” means only that the score is below the threshold: by this "
    "probability, disease is more likely than not.",
    grade="Predicted grade (0 to 4): {grade}.",
    rule="The threshold was chosen on {source} ({count} photographs) by the rule "
    "{rule}.",
    accuracy="Measured at this threshold on {count} other photographs ({name}): of 100 "
    "photographs with disease, about {sensitivity} are above it (95 % interval "
    "{sensitivity_low} to {sensitivity_high}); of 100 without, about {specificity} are "
    "below it ({specificity_low} to {specificity_high}).",
    useless="So this threshold has not been shown to separate photographs with disease "
    "from those without: the result says next to nothing.",
    no_accuracy="How many cases this threshold misses is unknown: the run has no "
    "evaluation with it.",
    right="Right eye",
    left="Left eye",
    unknown_eye="Eye unknown",
    unknown_eyes="It is unknown which eye each photograph shows.",
    results={
        "positive": "above the threshold",
        "negative": "below the threshold",
        "ungradable": "may be ungradable, no result",
        "error": "could not be scored",
        "missing": "no photograph",
        "unknown": "unknown",
    },
    flags={
        "no_field": "no retina found",
        "not_a_fundus": "does not look like a retina",
        "too_dark": "too dark",
        "blurred": "blurred",
        "quality_gate": "quality gate: ungradable",
        "views_disagree": "the model is unsure: views disagree",
    },
    doubts={
        "few_calibrated": "The probability is rough: few photographs were available "
        "for calibration.",
        "not_checked": "It could not be checked whether probabilities hold for this "
        "camera and these patients.",
        "unlike_validation": "Do not trust the probability: the scores here differ "
        "from those on which it was calibrated.",
        "other_prevalence": "Do not trust the probability: the disease seems to be "
        "more or less common here than where it was calibrated.",
    },
    in_training="The model was trained or chosen on photographs of this patient, so "
    "the result says nothing about its quality on new ones.",
    no_remarks="no remarks",
    columns=("Photograph", "Eye", "Score", "Result", "Quality"),
    photograph="photograph",
    overlay="regions that raise the score",
    gone="the photograph is no longer in the folder",
    heat="Colored regions raise the score, on one scale for this page; they are gray "
    "in a photograph whose result is not “above the threshold”. They are not outlines "
    "of lesions.",
    more="and {count} more, see scores.csv",
    later="Scores use all photographs that are here now; earlier rows of scores.csv "
    "may differ.",
    model="Model {name}: {description}. Trained on the dataset {dataset}.",
    limits="The result holds for photographs like those that the model was trained and "
    "evaluated on, and will differ for other cameras and populations. A photograph "
    "shows only a part of the retina. Other diseases are not evaluated. A negative "
    "result does not exclude disease.",
    diseases={
        "binary": "diabetic retinopathy (grade 1 or higher)",
        "referable": "referable diabetic retinopathy (grade 2 or higher)",
        "grades": "referable diabetic retinopathy (grade 2 or higher)",
    },
)

KOREAN = Texts(
    title="망막 사진: 당뇨망막병증",
    research="연구용입니다. 진단에 사용하지 마십시오.",
    patient="환자",
    unknown_patient="알 수 없음 ({name})",
    made="작성일 {date}",
    positive="기준값 이상: {disease} 의심",
    negative="기준값 미만: {disease} 의심되지 않음",
    one_eye_negative="한쪽 눈은 기준값 미만, 다른 쪽 눈은 결과 없음",
    no_result="결과 없음: 사용할 수 있는 사진이 없습니다",
    score="결과가 있는 사진 중 가장 높은 점수: {score}, 기준값 {threshold}.",
    probability="추정 확률: {probability}.",
    similar="보정에 쓰인 사진 가운데 점수가 비슷한 {total}장 중 {positive}장이 "
    "양성이었습니다: {value} (95 % 구간 {low} ~ {high}).",
    not_similar="점수가 비슷한 사진이 없습니다.",
    unlike_similar="추정 확률은 모든 점수에 맞춘 값이어서 이 구간을 벗어납니다. "
    "대략적인 값으로만 보십시오.",
    unlikely="“의심”은 점수가 기준값 이상이라는 뜻일 뿐입니다. 이 확률로는 병이 있을 "
    "가능성이 없을 가능성보다 낮습니다.",
    likely="“의심되지 않음”은 점수가 기준값 미만이라는 뜻일 뿐입니다. 이 확률로는 병이 "
    "있을 가능성이 없을 가능성보다 높습니다.",
    grade="예측 등급 (0 ~ 4): {grade}.",
    rule="기준값은 {source} (사진 {count}장)에서 규칙 {rule}(으)로 정했습니다.",
    accuracy="이 기준값을 다른 사진 {count}장({name})에서 측정한 결과: 병이 있는 사진 "
    "100장 중 약 {sensitivity}장이 기준값 이상(95 % 구간 {sensitivity_low} ~ "
    "{sensitivity_high}), 병이 없는 사진 100장 중 약 {specificity}장이 기준값 미만"
    "({specificity_low} ~ {specificity_high})이었습니다.",
    useless="따라서 이 기준값이 병이 있는 사진과 없는 사진을 구별한다는 것이 확인되지 "
    "않았습니다. 이 결과는 거의 아무것도 알려 주지 않습니다.",
    no_accuracy="이 기준값이 얼마나 많은 환자를 놓치는지는 알 수 없습니다. 이 기준값의 "
    "평가가 없습니다.",
    right="오른쪽 눈",
    left="왼쪽 눈",
    unknown_eye="눈을 알 수 없음",
    unknown_eyes="각 사진이 어느 쪽 눈인지 알 수 없습니다.",
    results={
        "positive": "기준값 이상",
        "negative": "기준값 미만",
        "ungradable": "판독이 어려움, 결과 없음",
        "error": "점수를 계산할 수 없음",
        "missing": "사진 없음",
        "unknown": "알 수 없음",
    },
    flags={
        "no_field": "망막을 찾을 수 없음",
        "not_a_fundus": "망막 사진이 아님",
        "too_dark": "너무 어두움",
        "blurred": "흐림",
        "quality_gate": "화질 검사: 판독 어려움",
        "views_disagree": "변형 사진 간 점수 차이가 큼",
    },
    doubts={
        "few_calibrated": "보정에 쓰인 사진이 적어 확률은 대략적입니다.",
        "not_checked": "이 카메라와 환자에게 확률이 맞는지 확인할 수 없었습니다.",
        "unlike_validation": "확률을 신뢰하지 마십시오. 점수 분포가 보정에 쓰인 사진과 "
        "다릅니다.",
        "other_prevalence": "확률을 신뢰하지 마십시오. 이곳의 유병률이 보정에 쓰인 "
        "사진과 다른 것으로 보입니다.",
    },
    in_training="모델의 학습이나 선택에 이 환자의 사진이 쓰였으므로, 이 결과로는 새 "
    "사진에 대한 성능을 알 수 없습니다.",
    no_remarks="특이 사항 없음",
    columns=("사진", "눈", "점수", "결과", "화질"),
    photograph="사진",
    overlay="점수를 높이는 부위",
    gone="사진이 폴더에 없습니다",
    heat="색칠된 부위는 점수를 높입니다(이 페이지에서 같은 척도). 결과가 “기준값 "
    "이상”이 아닌 사진에서는 회색입니다. 병변의 윤곽이 아닙니다.",
    more="외 {count}장, scores.csv 참조",
    later="점수는 지금 있는 모든 사진으로 계산했습니다. scores.csv의 이전 행과 다를 수 "
    "있습니다.",
    model="모델 {name}: {description}. 학습 데이터: {dataset}.",
    limits="결과는 모델을 학습하고 평가한 사진과 비슷한 사진에만 유효하며, 다른 "
    "카메라와 집단에서는 다를 수 있습니다. 사진은 망막의 일부만 보여 줍니다. 다른 "
    "질환은 평가하지 않습니다. 음성 결과가 질환을 배제하지는 않습니다.",
    diseases={
        "binary": "당뇨망막병증(1등급 이상)",
        "referable": "의뢰가 필요한 당뇨망막병증(2등급 이상)",
        "grades": "의뢰가 필요한 당뇨망막병증(2등급 이상)",
    },
)

LANGUAGES = {"en": ENGLISH, "ko": KOREAN}
