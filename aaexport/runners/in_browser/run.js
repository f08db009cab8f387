// Loads a model into onnxruntime-web and runs it, asked from outside the page.
"use strict";

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int8: Int8Array, uint8: Uint8Array, int16: Int16Array,
  uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
  bool: Uint8Array, float16: globalThis.Float16Array ?? Uint16Array,
};
const PIECE = 0x8000;
let ort, session;

function bytesOf(text) {
  return Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
}

function textOf(array) {
  const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  let text = "";
  for (let begin = 0; begin < bytes.length; begin += PIECE) {
    text += String.fromCharCode(...bytes.subarray(begin, begin + PIECE));
  }
  return btoa(text);
}

async function bytesAt(name) {
  const response = await fetch(name.split("/").map(encodeURIComponent).join("/")); // it may be called model#1.data
  if (!response.ok) throw new Error(`${name} cannot be loaded: the server says ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** What onnxruntime throws may be a number: then its own log says more. */
const saying = error => new Error(typeof error === "number" ? "onnxruntime-web ran out of memory" : String(error?.message ?? error));

async function load({ provider, module, binary, model, data }) {
  try {
    ort = await import(`./${module}`);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await bytesAt(binary);
    if (provider === "webgpu" && !(await navigator.gpu?.requestAdapter())) throw new Error("the browser has no WebGPU");
    const externalData = await Promise.all(data.map(async path => ({ path, data: await bytesAt(path) })));
    session = await ort.InferenceSession.create(await bytesAt(model), { executionProviders: [provider], externalData });
    return session.inputMetadata.map(({ name, type, shape }) => ({ name, type, shape }));
  } catch (error) {
    throw saying(error);
  }
}

async function infer(feeds) {
  try {
    const tensors = Object.entries(feeds).map(([name, { type, dims, data }]) => {
      const buffer = bytesOf(data).buffer;
      return [name, new ort.Tensor(type, new ARRAYS[type](buffer), dims)];
    });
    const answers = Object.entries(await session.run(Object.fromEntries(tensors)));
    return Object.fromEntries(answers.map(([name, { type, dims, data }]) => [name, { type, dims, data: textOf(data) }]));
  } catch (error) {
    throw saying(error);
  }
}
