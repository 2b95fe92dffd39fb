// Run an exported network on prepared images. Nothing leaves the device.
import * as ort from "./ort.wasm.min.mjs";

ort.env.wasm.numThreads = 1; // several need headers that plain web servers do not send

const status = document.querySelector("#network");
const input = document.querySelector("#files");
const table = document.querySelector("table");

async function loadNetwork() {
  const response = await fetch("network.json");
  const description = await response.json();
  if (!("probability" in description.outputs)) {
    throw new Error("the network was exported without --whole");
  }
  const session = await ort.InferenceSession.create("network.onnx");
  return { description, session };
}

// Return the pixels of a prepared image, uint8 RGB, height by width by channel.
async function readPixels(file, { description }) {
  if (file.type !== "image/png") {
    throw new Error("not a PNG file");
  }
  // Colors must arrive as they were written, whatever the screen.
  const image = await createImageBitmap(file, {
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const size = description.preprocessing.size;
  if (image.width !== size || image.height !== size) {
    throw new Error(
      `not prepared for this network: ${image.width} x ${image.height} px instead of ` +
        `${size} x ${size}`,
    );
  }
  const canvas = new OffscreenCanvas(size, size);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, size, size);
  const pixels = new Uint8Array(size * size * 3);
  for (let i = 0; i < size * size; i++) {
    pixels.set(data.subarray(4 * i, 4 * i + 3), 3 * i);
  }
  return pixels;
}

async function predict(pixels, { description, session }) {
  const size = description.preprocessing.size;
  const image = new ort.Tensor("uint8", pixels, [1, size, size, 3]);
  const outputs = await session.run({ image });
  return Object.fromEntries(
    Object.entries(outputs).map(([name, tensor]) => [name, tensor.data[0]]),
  );
}

function showRow(file, cells) {
  const row = table.tBodies[0].insertRow();
  const picture = new Image();
  picture.alt = "";
  picture.src = URL.createObjectURL(file);
  row.insertCell().append(picture, file.name);
  for (const text of cells) {
    row.insertCell().textContent = text;
  }
  if (cells.length === 1) {
    row.lastChild.colSpan = 3;
  }
  table.hidden = false;
}

async function showFiles(files, network) {
  const { probability_decimals: decimals, positive_from_grade: grade } =
    network.description;
  const words = [`below grade ${grade}`, `grade ${grade} or higher`];
  let numScored = 0;
  for (const file of files) {
    try {
      const outputs = await predict(await readPixels(file, network), network);
      showRow(file, [
        outputs.score.toFixed(4),
        outputs.probability.toFixed(decimals),
        words[outputs.predicted_label],
      ]);
      numScored++;
    } catch (error) {
      showRow(file, [`Not scored: ${error.message}`]);
    }
  }
  status.textContent = `${numScored} of ${files.length} images were scored.`;
}

try {
  const network = await loadNetwork();
  status.textContent = "The network is ready.";
  input.disabled = false;
  input.addEventListener("change", async () => {
    input.disabled = true;
    status.textContent = "Scoring …";
    await showFiles([...input.files], network);
    input.disabled = false;
  });
} catch (error) {
  status.textContent = `The network cannot be loaded: ${error.message}`;
}
