// Copy the page, ONNX Runtime Web and an exported network to dist/, which any web server
// can serve: npm run build -- NETWORK.onnx
import { copyFileSync, existsSync, mkdirSync } from "node:fs";
import { exit } from "node:process";

const network = process.argv[2];
const description = `${network}.json`;
if (!network || !existsSync(network) || !existsSync(description)) {
  console.error(
    "usage: npm run build -- NETWORK.onnx\n" +
      "NETWORK.onnx and NETWORK.onnx.json are written by\n" +
      "drtf export RUN --format onnx --whole --shards DATASET --out NETWORK.onnx",
  );
  exit(2);
}
mkdirSync("dist", { recursive: true });
const runtime = "node_modules/onnxruntime-web/dist";
for (const name of [
  "ort.wasm.min.mjs",
  "ort-wasm-simd-threaded.mjs",
  "ort-wasm-simd-threaded.wasm",
]) {
  copyFileSync(`${runtime}/${name}`, `dist/${name}`);
}
for (const name of ["index.html", "page.js"]) {
  copyFileSync(name, `dist/${name}`);
}
copyFileSync(network, "dist/network.onnx");
copyFileSync(description, "dist/network.json");
