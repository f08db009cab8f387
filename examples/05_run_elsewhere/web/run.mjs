// node run.mjs model.onnx < inputs.json > outputs.json: one run in onnxruntime-web's WebAssembly.
// Tensors are {"dims": […], "data": base64 of float32}, by name. A failure is one line on stderr.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-web";

ort.env.wasm.numThreads = 1;

async function run(path, inputs) {
  const feeds = {};
  for (const [name, { dims, data }] of Object.entries(inputs)) {
    const bytes = Uint8Array.from(Buffer.from(data, "base64"));
    feeds[name] = new ort.Tensor("float32", new Float32Array(bytes.buffer), dims);
  }
  const session = await ort.InferenceSession.create(readFileSync(path), { executionProviders: ["wasm"] });
  const outputs = {};
  for (const [name, { dims, data }] of Object.entries(await session.run(feeds))) {
    outputs[name] = { dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
  }
  return outputs;
}

try {
  process.stdout.write(JSON.stringify(await run(process.argv[2], JSON.parse(readFileSync(0, "utf8")))));
} catch (error) {
  // What the runtime throws after a failed allocation is no Error; its own log says more.
  console.error(String(error.message ?? error).split("\n")[0]);
  process.exitCode = 1;
}
