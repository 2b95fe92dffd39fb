"use strict";

const TEXTS = {
  en: {
    skip: "Skip to the content",
    title: "Retinal photographs",
    research: "For research only, not for diagnosis.",
    tabs: "What to do",
    tabSingle: "One or two photographs",
    tabBatch: "Many photographs",
    tabModel: "The model",
    tokenLabel: "This service requires its access token:",
    tokenButton: "Use it",
    dropSingle: "Drop one photograph of a retina here, or both eyes of a patient, or",
    dropBatch: "Drop photographs or a folder here, or",
    chooseFiles: "Choose photographs",
    chooseFolder: "Choose a folder",
    dropHint: "JPEG, PNG, TIFF or DICOM. The photographs go only to this service, which keeps none of them.",
    tooMany: "Choose one or two photographs here; the tab “Many photographs” takes more.",
    working: "Scoring photographs: {count} …",
    ready: "The results are below. Photographs: {count}.",
    left: "Left eye", right: "Right eye", unknownEye: "Photograph",
    eyes: "Are these both eyes of one patient?",
    eyesUnknown: "No, or I do not know",
    eyesLeftFirst: "Yes; {name} is the left eye",
    eyesRightFirst: "Yes; {name} is the right eye",
    patient: "This patient",
    patientWorse: "The result of a patient is that of the worse eye: {eye}.",
    patientCombined: "The score of each eye takes the other eye into account.",
    patientMissing: "Nothing is decided for the patient, because one eye has no result.",
    slider: "How strongly the heat map covers the photograph",
    photographAlt: "The photograph as the model sees it",
    overlayAlt: "Heat map: the regions that raise the score",
    heatHint: "Warm colors mark the regions that raise the score. Gray: disease is not suspected, or nothing is decided.",
    condition: { binary: "diabetic retinopathy", referable: "referable diabetic retinopathy (moderate or worse)", grades: "referable diabetic retinopathy (moderate or worse)" },
    positive: "Above the threshold: suspected {condition}",
    negative: "Below the threshold: no suspicion of {condition}",
    undecided: "No decision: the photograph may be ungradable",
    failed: "No result",
    probability: "Probability {percent}: of 100 photographs with such a result, about {count} show {condition}.",
    probabilityNone: "There is no probability: this model was not calibrated.",
    probabilityPrevalence: "It holds where about {percent} of the photographs show it, as in the photographs that the model was calibrated on.",
    scale: "Score {score}; threshold {threshold}",
    operating: "The score is {score}; the threshold is {threshold}.",
    operatingRule: "The threshold was chosen by the rule “{rule}” on {source}.",
    operatingGiven: "The threshold was given when the service was started.",
    operatingNone: "This model was never evaluated, so its threshold of 0.5 is arbitrary.",
    evaluated: "On {count} test photographs ({dataset}), it found {sensitivity} of those with {condition}, and cleared {specificity} of the others.",
    interval: "{value} (95 % interval {low} to {high})",
    grade: "Predicted grade: {grade} of 4.",
    training: "The model was trained on this very photograph, so this result says nothing about new ones.",
    good: "No quality problem was found.",
    reasons: {
      empty: "The file is empty.", not_an_image: "The file is not a photograph.", unsupported: "This kind of file is not supported.",
      too_large: "The photograph is too large.", too_small: "The photograph is too small.", too_narrow: "The photograph is too narrow.",
      undecodable: "The file is damaged.", unprocessable: "The photograph could not be processed.", ungradable: "The photograph is ungradable.",
    },
    columnPhotograph: "Photograph", columnDecision: "Decision", columnProbability: "Probability", columnRemarks: "Remarks",
    batchTable: "Results", stop: "Stop", download: "Download the table (CSV)", again: "Try again",
    batchStatus: "{done} of {total} photographs",
    batchDone: "{count} photographs: {positive} above the threshold, {failed} without a result.",
    batchStopped: "Stopped.",
    batchRefused: "{count} of them were refused and are not in the table.",
    batchSingle: "Here each photograph is decided by itself; in the downloaded table, both eyes of a patient are combined.",
    above: "above the threshold", below: "below the threshold", none: "none",
    apiLink: "How to use this service from a program",
    offline: "The service does not answer. Check that it is running, and try again.",
    busy: "The service is busy; trying again …",
    facts: {
      name: "Name", description: "Network", task: "Looks for", dataset: "Trained on", threshold: "Threshold",
      num_views: "Views per photograph", calibration: "Calibration", combines_eyes: "Combines both eyes",
      quality_gate: "Quality gate", evaluation: "Evaluation", model_sha256: "Hash of the model", settings: "Hash of the settings", version: "drtf",
    },
    yes: "yes", no: "no",
  },
  ko: {
    skip: "본문으로 건너뛰기",
    title: "망막 사진",
    research: "연구용입니다. 진단에 사용하지 마십시오.",
    tabs: "작업",
    tabSingle: "사진 한두 장",
    tabBatch: "여러 사진",
    tabModel: "모델",
    tokenLabel: "이 서비스에는 접근 토큰이 필요합니다:",
    tokenButton: "사용",
    dropSingle: "망막 사진 한 장 또는 한 환자의 양안 사진을 여기에 놓거나",
    dropBatch: "사진이나 폴더를 여기에 놓거나",
    chooseFiles: "사진 선택",
    chooseFolder: "폴더 선택",
    dropHint: "JPEG, PNG, TIFF, DICOM. 사진은 이 서비스로만 전송되며 저장되지 않습니다.",
    tooMany: "여기서는 사진을 한 장이나 두 장만 선택하십시오. 더 많으면 ‘여러 사진’ 탭을 사용하십시오.",
    working: "사진 {count}장을 분석하는 중 …",
    ready: "결과는 아래에 있습니다. 사진: {count}장.",
    left: "왼쪽 눈", right: "오른쪽 눈", unknownEye: "사진",
    eyes: "한 환자의 양쪽 눈입니까?",
    eyesUnknown: "아니요, 또는 모름",
    eyesLeftFirst: "예, {name} 사진이 왼쪽 눈입니다",
    eyesRightFirst: "예, {name} 사진이 오른쪽 눈입니다",
    patient: "이 환자",
    patientWorse: "환자의 결과는 더 나쁜 쪽 눈의 결과입니다: {eye}.",
    patientCombined: "각 눈의 점수에는 반대쪽 눈이 반영되어 있습니다.",
    patientMissing: "한쪽 눈의 결과가 없어 환자에 대한 판정을 하지 않습니다.",
    slider: "사진 위에 표시할 히트맵의 진하기",
    photographAlt: "모델이 보는 사진",
    overlayAlt: "히트맵: 점수를 높이는 부위",
    heatHint: "따뜻한 색은 점수를 높이는 부위입니다. 회색이면 질환이 의심되지 않거나 판정이 없습니다.",
    condition: { binary: "당뇨망막병증", referable: "의뢰가 필요한 당뇨망막병증(중등도 이상)", grades: "의뢰가 필요한 당뇨망막병증(중등도 이상)" },
    positive: "기준값 이상: {condition} 의심",
    negative: "기준값 미만: {condition} 의심되지 않음",
    undecided: "판정 없음: 판독하기 어려운 사진일 수 있습니다",
    failed: "결과 없음",
    probability: "확률 {percent}: 이런 결과가 나온 사진 100장 중 약 {count}장이 {condition}에 해당합니다.",
    probabilityNone: "확률이 없습니다. 이 모델은 보정되지 않았습니다.",
    probabilityPrevalence: "이 확률은 보정에 사용된 사진처럼 약 {percent}의 사진이 해당되는 곳에서 유효합니다.",
    scale: "점수 {score}, 기준값 {threshold}",
    operating: "점수는 {score}, 기준값은 {threshold}입니다.",
    operatingRule: "기준값은 {source}에서 ‘{rule}’ 규칙으로 정했습니다.",
    operatingGiven: "기준값은 서비스를 시작할 때 지정되었습니다.",
    operatingNone: "이 모델은 평가된 적이 없으므로 기준값 0.5는 임의의 값입니다.",
    evaluated: "시험 사진 {count}장({dataset})에서 {condition} 사진의 {sensitivity}를 찾았고, 나머지의 {specificity}를 올바르게 제외했습니다.",
    interval: "{value}(95 % 구간 {low}–{high})",
    grade: "예측 등급: {grade} (0–4).",
    training: "모델이 바로 이 사진으로 학습했으므로 이 결과는 새로운 사진에 대해 아무것도 알려 주지 않습니다.",
    good: "화질 문제가 발견되지 않았습니다.",
    reasons: {
      empty: "파일이 비어 있습니다.", not_an_image: "사진 파일이 아닙니다.", unsupported: "지원되지 않는 파일 형식입니다.",
      too_large: "사진이 너무 큽니다.", too_small: "사진이 너무 작습니다.", too_narrow: "사진이 너무 좁습니다.",
      undecodable: "파일이 손상되었습니다.", unprocessable: "사진을 처리할 수 없습니다.", ungradable: "판독할 수 없는 사진입니다.",
    },
    columnPhotograph: "사진", columnDecision: "판정", columnProbability: "확률", columnRemarks: "비고",
    batchTable: "결과", stop: "중지", download: "표 내려받기(CSV)", again: "다시 시도",
    batchStatus: "사진 {total}장 중 {done}장",
    batchDone: "사진 {count}장: 기준값 이상 {positive}장, 결과 없음 {failed}장.",
    batchStopped: "중지되었습니다.",
    batchRefused: "그중 {count}장은 거부되어 표에 없습니다.",
    batchSingle: "여기서는 사진마다 따로 판정합니다. 내려받은 표에서는 한 환자의 양쪽 눈을 결합합니다.",
    above: "기준값 이상", below: "기준값 미만", none: "없음",
    apiLink: "프로그램에서 이 서비스를 사용하는 방법",
    offline: "서비스가 응답하지 않습니다. 실행 중인지 확인하고 다시 시도하십시오.",
    busy: "서비스가 바쁩니다. 다시 시도하는 중 …",
    facts: {
      name: "이름", description: "신경망", task: "찾는 것", dataset: "학습 데이터", threshold: "기준값",
      num_views: "사진당 보기 수", calibration: "보정", combines_eyes: "양안 결합",
      quality_gate: "화질 판정", evaluation: "평가", model_sha256: "모델 해시", settings: "설정 해시", version: "drtf",
    },
    yes: "예", no: "아니요",
  },
};
// The words for flags are those of the patients' pages.
for (const [name, words] of Object.entries(/* flags */ {})) Object.assign(TEXTS[name], words);

const PARALLEL = 2;
const RETRIES = 60;
const STORED_LANGUAGE = "drtf-language";
const byId = (id) => document.getElementById(id);

let language = "en";
let token = "";
let model = null;
let single = null; // the last answer, with the files and their eyes
let batch = null; // the state of the batch tab

function text(name, values = {}) {
  const found = name.split(".").reduce((texts, key) => texts && texts[key], TEXTS[language]);
  return (found ?? name).replace(/\{(\w+)\}/g, (_, key) => values[key]);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// ---- Talking to the service

class ServiceError extends Error {}

async function send(path, options = {}, { signal, onBusy } = {}) {
  for (let attempt = 0; ; attempt++) {
    const headers = { ...options.headers };
    if (token) headers.Authorization = `Bearer ${token}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServiceError(text("offline"));
    }
    if (response.ok) return response;
    if (response.status === 429 && attempt < RETRIES) {
      onBusy?.();
      await new Promise((resolve) => setTimeout(resolve, 1000));
      continue;
    }
    if (response.status === 401) byId("token-form").hidden = false;
    const refusal = await response.json().catch(() => ({}));
    const detail = typeof refusal.detail === "string" ? refusal.detail : response.statusText;
    throw Object.assign(new ServiceError(detail), { status: response.status });
  }
}

function photographsForm(photographs) {
  const form = new FormData();
  for (const { file, path, patient, eye } of photographs) {
    form.append("photograph", file, path);
    if (!eye) continue;
    form.append("patient", patient);
    form.append("eye", eye);
  }
  return form;
}

async function loadModel() {
  try {
    model = await (await send("/model")).json();
    byId("token-form").hidden = true;
    showProblem("");
  } catch (error) {
    showProblem(error.message);
  }
  showModel();
}

function showProblem(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = !message;
}

// ---- Results in words

const percent = (value) => `${Math.round(value * 1000) / 10} %`;
const condition = () => text(`condition.${model.task}`);

function decisionOf(row) {
  if (row.error) return ["unsure", text("failed")];
  if (row.predicted_label === null) return ["unsure", text("undecided")];
  const name = row.predicted_label ? "positive" : "negative";
  return [name, text(name, { condition: condition() })];
}

function probabilityOf(row) {
  if (row.probability === null) return model.calibration ? "" : text("probabilityNone");
  const values = { percent: percent(row.probability), count: Math.round(row.probability * 100), condition: condition() };
  return text("probability", values);
}

function errorOf(row) {
  const reason = row.error.split(":")[0];
  return TEXTS[language].reasons[reason] ? `${text(`reasons.${reason}`)} (${row.error})` : row.error;
}

function qualityOf(row) {
  return row.flags.split(";").filter(Boolean).map((flag) => {
    const words = text(`flags.${flag}`);
    return `${words[0].toUpperCase()}${words.slice(1)}.`;
  });
}

function remarksOf(row) {
  const remarks = row.error ? [errorOf(row)] : qualityOf(row);
  if (!remarks.length) remarks.push(text("good"));
  if (row.predicted_grade !== null) remarks.push(text("grade", { grade: row.predicted_grade }));
  if (row.in_training) remarks.push(text("training"));
  return remarks;
}

function operatingPoint() {
  const sentences = [];
  if (model.threshold_rule === "none") sentences.push(text("operatingNone"));
  else if (!model.threshold_source) sentences.push(text("operatingGiven"));
  else sentences.push(text("operatingRule", { rule: model.threshold_rule, source: model.threshold_source }));
  for (const found of model.evaluations) {
    const interval = ({ value, ci_low, ci_high }) =>
      value === null ? "–" : ci_low === null ? percent(value)
        : text("interval", { value: percent(value), low: percent(ci_low), high: percent(ci_high) });
    sentences.push(text("evaluated", {
      count: found.num_photographs, dataset: `${found.dataset}, ${found.split}`, condition: condition(),
      sensitivity: interval(found.metrics.sensitivity), specificity: interval(found.metrics.specificity),
    }));
  }
  return sentences.join(" ");
}

// ---- One or two photographs

async function scoreSingle(files, eyes = "") {
  showProblem("");
  byId("results").replaceChildren();
  byId("patient").hidden = true;
  single = null;
  if (!files.length) return;
  if (files.length > 2) return showProblem(text("tooMany"));
  byId("single-status").textContent = text("working", { count: files.length });
  try {
    if (!model) await loadModel();
    const order = eyes === "right" ? ["right", "left"] : ["left", "right"];
    const photographs = [...files].map((file, number) => ({
      file,
      // Different folders may have files of the same name.
      path: number && file.name === files[0].name ? `${number + 1}/${file.name}` : file.name,
      patient: eyes && "1",
      eye: eyes && order[number],
    }));
    const request = { method: "POST", body: photographsForm(photographs) };
    const onBusy = () => { byId("single-status").textContent = text("busy"); };
    const answer = await (await send("/score?overlay=true", request, { onBusy })).json();
    single = { files: [...files], eyes, ...answer };
    showSingle();
  } catch (error) {
    byId("single-status").textContent = "";
    showProblem(error.message);
  }
}

function showSingle() {
  if (!single || !model) return;
  byId("single-status").textContent = text("ready", { count: single.rows.length });
  byId("results").replaceChildren(...single.rows.map(resultCard));
  showPatient();
}

/** Return the file of a row; undefined if a DICOM file has several rows, which name it. */
function fileOf(number) {
  return single.rows.length === single.files.length ? single.files[number] : undefined;
}

function resultCard(row, number) {
  const [kind, decision] = decisionOf(row);
  const files = single.overlays[number];
  const file = fileOf(number);
  const card = element("article", { class: "card" },
    element("h2", {}, text(row.eye || "unknownEye")),
    element("p", { class: "name" }, file?.name ?? row.path));
  if (files) card.append(...pictures(files, number));
  else if (file) card.append(plainPicture(file));
  card.append(element("p", { class: `decision ${kind}` }, decision));
  if (row.score !== null) {
    const values = { score: row.score.toFixed(3), threshold: row.threshold.toFixed(3) };
    const scale = element("div", { class: "scale", role: "img", "aria-label": text("scale", values) }, element("span", { class: "filled" }), element("span"));
    scale.firstChild.style.width = `${row.score * 100}%`;
    scale.lastChild.style.left = `${row.threshold * 100}%`;
    card.append(element("p", {}, probabilityOf(row)));
    if (row.probability !== null && model.prevalence !== null)
      card.append(element("p", { class: "muted" }, text("probabilityPrevalence", { percent: percent(model.prevalence) })));
    card.append(scale, element("p", { class: "muted" }, `${text("operating", values)} ${operatingPoint()}`));
  }
  const flags = row.probability_flags.split(";").filter(Boolean);
  const remarks = [...remarksOf(row), ...flags.map((flag) => text(`probabilityFlags.${flag}`))];
  card.append(element("ul", { class: "remarks" }, ...remarks.map((remark) => element("li", {}, remark))));
  return card;
}

function pictures(files, number) {
  const overlay = element("img", { alt: text("overlayAlt"), src: `data:image/png;base64,${files.overlay}` });
  const label = `slider-${number}`;
  const slider = element("input", { type: "range", id: label, min: 0, max: 100, value: 60, "aria-valuetext": "60 %",
    oninput: () => { overlay.style.opacity = slider.value / 100; slider.setAttribute("aria-valuetext", `${slider.value} %`); } });
  overlay.style.opacity = 0.6;
  return [
    element("div", { class: "pictures" }, element("img", { alt: text("photographAlt"), src: `data:image/png;base64,${files.picture}` }), overlay),
    element("div", { class: "slider" }, element("label", { for: label }, text("slider")), slider),
    element("p", { class: "hint" }, text("heatHint")),
  ];
}

function plainPicture(file) {
  const url = URL.createObjectURL(file);
  const picture = element("img", { alt: "", src: url, onload: () => URL.revokeObjectURL(url), onerror: () => box.remove() });
  const box = element("div", { class: "pictures" }, picture);
  return box;
}

function showPatient() {
  const card = byId("patient");
  const { rows, eyes, patients } = single;
  const hasBoth = patients.length === 1 && rows.length === 2
    && rows[0].eye && rows[1].eye && rows[0].eye !== rows[1].eye;
  // The eyes of a DICOM file with several rows cannot be stated.
  const canAsk = rows.length === 2 && single.files.length === 2;
  card.hidden = !(hasBoth || canAsk) || rows.some((row) => row.error);
  if (card.hidden) return;
  card.replaceChildren();
  if (hasBoth) {
    const [patient] = patients;
    card.append(element("h2", {}, text("patient")));
    // One eye above the threshold is enough.
    if (patient.both_eyes || patient.predicted_label) {
      const worse = rows.find((row) => row.eye === patient.worse_eye);
      const [kind, decision] = decisionOf(worse);
      card.append(element("p", { class: `decision ${kind}` }, decision),
        element("p", {}, text("patientWorse", { eye: text(worse.eye) })));
      if (rows.some((row) => row.fellow_used)) card.append(element("p", {}, text("patientCombined")));
    } else card.append(element("p", {}, text("patientMissing")));
  }
  if (canAsk && (!hasBoth || eyes)) card.append(eyesQuestion());
}

function eyesQuestion() {
  const name = single.files[0].name;
  const options = [["", text("eyesUnknown")], ["left", text("eyesLeftFirst", { name })], ["right", text("eyesRightFirst", { name })]];
  return element("fieldset", {}, element("legend", {}, text("eyes")), ...options.map(([value, words]) =>
    element("div", {}, element("label", {}, element("input", { type: "radio", name: "eyes", checked: value === single.eyes,
      onchange: () => scoreSingle(single.files, value) }), words))));
}

// ---- Many photographs

async function scoreBatch(photographs) {
  if (!photographs.length || batch?.isRunning) return;
  photographs.sort((one, other) => (one.path < other.path ? -1 : 1));
  batch = { total: photographs.length, waiting: photographs, done: 0, rows: [], lines: [], refused: 0, header: "" };
  byId("batch-rows").replaceChildren();
  byId("batch-csv").hidden = true;
  byId("batch-scroll").hidden = false;
  await runBatch();
}

/** Score the photographs that wait, and make the table. After a failure, it can be called again. */
async function runBatch() {
  showProblem("");
  batch.isRunning = true;
  batch.stop = new AbortController();
  byId("batch-done").textContent = "";
  byId("batch-again").hidden = true;
  byId("batch-progress").hidden = false;
  showBatch();
  try {
    if (!model) await loadModel();
    const results = await Promise.allSettled(Array.from({ length: PARALLEL }, scoreWaiting));
    const failed = results.find(({ status }) => status === "rejected");
    if (failed) throw failed.reason;
    if (batch.lines.length) await completeBatch();
  } catch (error) {
    showProblem(error.message);
    byId("batch-again").hidden = false;
  } finally {
    batch.isRunning = false;
    byId("batch-progress").hidden = true;
    showBatch();
  }
}

async function scoreWaiting() {
  while (batch.waiting.length && !batch.stop.signal.aborted) {
    const photograph = batch.waiting.shift();
    let rows; // of a DICOM file, one for each frame
    try {
      const request = { method: "POST", body: photographsForm([photograph]) };
      const answer = await (await send("/score", request, { signal: batch.stop.signal })).json();
      rows = answer.rows;
      const [header, ...lines] = answer.uncombined.trimEnd().split("\n");
      batch.header = header;
      batch.lines.push(...lines);
    } catch (error) {
      const isRefused = error instanceof ServiceError && error.status && error.status !== 401;
      if (!isRefused) batch.waiting.unshift(photograph);
      if (error.name === "AbortError") return;
      if (!isRefused) { batch.stop.abort(); throw error; }
      batch.refused += 1;
      rows = [{ path: photograph.path, error: error.message, flags: "", predicted_label: null, predicted_grade: null, probability: null, in_training: null }];
    }
    batch.done += 1;
    batch.rows.push(...rows);
    byId("batch-rows").append(...rows.map(batchRow));
    showBatch();
  }
}

async function completeBatch() {
  const body = `${[batch.header, ...batch.lines].join("\n")}\n`;
  const response = await send("/table", { method: "POST", body, headers: { "Content-Type": "text/csv" } });
  const link = byId("batch-csv");
  URL.revokeObjectURL(link.href);
  batch.table = await response.blob();
  link.href = URL.createObjectURL(batch.table);
  link.hidden = false;
}

function showBatch() {
  if (!batch) return;
  byId("batch-bar").max = batch.total;
  byId("batch-bar").value = batch.done;
  byId("batch-status").textContent = text("batchStatus", { done: batch.done, total: batch.total });
  if (batch.isRunning) return;
  const positive = batch.rows.filter((row) => row.predicted_label).length;
  const failed = batch.rows.filter((row) => row.error).length;
  const sentences = [text("batchDone", { count: batch.rows.length, positive, failed })];
  if (batch.stop.signal.aborted) sentences.unshift(text("batchStopped"));
  if (batch.refused) sentences.push(text("batchRefused", { count: batch.refused }));
  if (model?.combines_eyes) sentences.push(text("batchSingle"));
  byId("batch-done").textContent = sentences.join(" ");
}

function batchRow(row) {
  const [kind] = decisionOf(row);
  const words = row.predicted_label === null ? "none" : row.predicted_label ? "above" : "below";
  const remarks = row.error || row.flags || row.in_training || row.predicted_grade !== null ? remarksOf(row) : [];
  return element("tr", {}, element("td", {}, row.path), element("td", { class: kind }, text(words)),
    element("td", {}, row.probability === null ? "–" : percent(row.probability)), element("td", {}, remarks.join(" ")));
}

async function filesIn(entry, folder = "") {
  if (entry.name.startsWith(".")) return [];
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: folder + entry.name }];
  }
  const reader = entry.createReader();
  const found = [];
  for (let part; (part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length;)
    for (const child of part) found.push(...await filesIn(child, `${folder}${entry.name}/`));
  return found;
}

async function droppedPhotographs(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => ({ file, path: file.name }));
  const found = (await Promise.all(entries.map((entry) => filesIn(entry)))).flat();
  // Paths are relative to a folder, as in the table of drtf score.
  const isFolder = entries.length === 1 && entries[0].isDirectory;
  return isFolder ? found.map(({ file, path }) => ({ file, path: path.slice(path.indexOf("/") + 1) })) : found;
}

// ---- The model

function showModel() {
  if (!model) return;
  const values = {
    name: model.name, description: model.description, task: condition(), dataset: model.dataset,
    threshold: `${model.threshold.toFixed(4)} (${model.threshold_rule})`, num_views: model.num_views,
    calibration: model.calibration ?? text("no"), combines_eyes: text(model.combines_eyes ? "yes" : "no"),
    quality_gate: model.quality_gate ?? text("no"), evaluation: operatingPoint(),
    model_sha256: model.model_sha256, settings: model.settings, version: model.version,
  };
  byId("model-facts").replaceChildren(...Object.entries(values).flatMap(([name, value]) =>
    [element("dt", {}, text(`facts.${name}`)), element("dd", {}, String(value))]));
}

// ---- Languages, tabs and drops

function useLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = chosen;
  for (const item of document.querySelectorAll("[data-text]")) item.textContent = text(item.dataset.text);
  for (const item of document.querySelectorAll("[data-label]")) item.setAttribute("aria-label", text(item.dataset.label));
  for (const button of document.querySelectorAll("[data-language]"))
    button.setAttribute("aria-pressed", button.dataset.language === chosen);
  document.title = `drtf – ${text("title")}`;
  showSingle();
  if (batch && model) byId("batch-rows").replaceChildren(...batch.rows.map(batchRow));
  showBatch();
  showModel();
}

function useTab(chosen) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const isChosen = tab === chosen;
    tab.setAttribute("aria-selected", isChosen);
    tab.tabIndex = isChosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = !isChosen;
  }
}

function acceptDrops(id, take) {
  const area = byId(id);
  area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", async (event) => {
    event.preventDefault();
    area.classList.remove("over");
    take(await droppedPhotographs(event.dataTransfer));
  });
}

function acceptFiles(id, take) {
  byId(id).addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // so that the same file can be chosen again
    take(files.map((file) => {
      const path = file.webkitRelativePath;
      return { file, path: path ? path.slice(path.indexOf("/") + 1) : file.name };
    }).filter(({ file }) => !file.name.startsWith(".")));
  });
}

function start() {
  const stored = (() => { try { return localStorage.getItem(STORED_LANGUAGE); } catch { return null; } })();
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => {
      try { localStorage.setItem(STORED_LANGUAGE, button.dataset.language); } catch { /* it is not kept */ }
      useLanguage(button.dataset.language);
    });
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, number) => {
    tab.addEventListener("click", () => useTab(tab));
    tab.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: 1, ArrowLeft: -1, Home: -number, End: tabs.length - 1 - number };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const next = tabs[(number + steps[event.key] + tabs.length) % tabs.length];
      useTab(next);
      next.focus();
    });
  });
  const takeSingle = (photographs) => scoreSingle(photographs.map(({ file }) => file));
  acceptDrops("single-drop", takeSingle);
  acceptFiles("single-files", takeSingle);
  acceptDrops("batch-drop", scoreBatch);
  acceptFiles("batch-files", scoreBatch);
  acceptFiles("batch-folder", scoreBatch);
  // A photograph that misses the area must not replace the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  byId("batch-stop").addEventListener("click", () => batch.stop.abort());
  byId("batch-again").addEventListener("click", runBatch);
  byId("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = byId("token").value.trim();
    loadModel();
  });
  useLanguage(stored in TEXTS ? stored : navigator.language.startsWith("ko") ? "ko" : "en");
  loadModel();
}

start();
