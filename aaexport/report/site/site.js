// site.json, model.onnx and onnxruntime-web beside this file → a page on which one sees what the model makes of a picture.
"use strict";

// What the page says when something is not as it must be.
class Trouble extends Error {}

const at = id => document.getElementById(id);
const SIDE = 320; // pixels of the drawing area's longer side
const MOST_PIXELS = 2 ** 26;
const MOST_THREADS = 4;
const SMALL = 2 ** 22; // bytes of a model, up to which threads would wait for each other longer than they work
const MOST_RUNS = 500, DRAWN_RUNS = 80;
const WARM_UP = 2; // runs that are not counted: the first ones compile
const LIVE = 60; // milliseconds of a run, up to which the picture is followed while somebody draws
const IMAGE_TROUBLE = "cannot be read as a picture; JPEG, PNG, WebP and GIF can.";
// A module whose one function holds a SIMD instruction: onnxruntime-web has nothing else for older browsers.
const SIMD = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11];
const NAMES = { wasm: "WebAssembly", webgpu: "WebGPU" };
// viridis (matplotlib, CC0), as in aaexport's pictures of attention: equal steps look equally large, to the colour-blind too.
const VIRIDIS = [
  [68, 1, 84], [72, 23, 105], [71, 42, 122], [67, 61, 132], [61, 78, 138], [53, 94, 141], [46, 109, 142], [41, 123, 142],
  [35, 137, 142], [31, 151, 139], [33, 165, 133], [46, 179, 124], [70, 192, 111], [101, 203, 94], [137, 213, 72],
  [176, 221, 47], [216, 226, 25], [253, 231, 37],
];
const MARK = "#ff2d55";
const BENEATH = 0.28; // of the picture in a map

let about; // site.json
let ort, session, backend; // what runs
const runtimes = {}; // onnxruntime-web by backend, once it is loaded
let golden = []; // {input: tensor, outputs: {name: tensor}}
let shown = null; // {pixels: Uint8Array (C, H, W), input: Float32Array}
let answer = null; // {scores, attention: {output: Float32Array}}
let runs = [], uncounted = 0; // milliseconds
let busy = false, waiting = null, cleared = 0, isBlank = true; // until there is an answer to what one sees
let chosenLast = 0; // of pictures, by number: a file is read while somebody goes on to another one
let turn = Promise.resolve(); // of whoever uses the session, which does one thing at a time
let largest = null; // weight of the chosen maps, once somebody asked
let query = { y: 0.5, x: 0.5 }; // the place that is looked from, as shares of the picture
const chosen = { layers: new Set(), heads: new Set() };

// ---------------------------------------------------------------------------------------------------------- beginning

async function begin() {
  if (!globalThis.WebAssembly || !WebAssembly.validate(Uint8Array.from(SIMD))) {
    throw new Trouble("This browser cannot run the network: its WebAssembly lacks SIMD. Any browser since 2023 has it.");
  }
  if (!globalThis.crypto?.subtle) {
    throw new Trouble("The model’s digest cannot be checked here: browsers do that over HTTPS or from localhost only. Open the page by one of these.");
  }
  about = JSON.parse(new TextDecoder().decode(await fetched("site.json", named("site-sha256"))));
  const [questions] = await Promise.all([fetched(about.golden), start("auto")]);
  golden = readGolden(questions);
  at("app").hidden = false;
  setUpInput();
  setUpLooking();
  setUpSpeed();
  setUpProof();
  setUpSamples();
  if (samples().length) await showSample(samples()[0]);
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

const named = name => document.querySelector(`meta[name="${name}"]`).content;

/** A path as a URL has it: a file may be called model#1.data. */
const address = path => path.split("/").map(encodeURIComponent).join("/");

/** A file of this site, as bytes, once it is known to be the one that was written. */
async function fetched(name, digest = about.files[name].sha256) {
  let bytes;
  try {
    const response = await fetch(address(name), { cache: "no-cache" });
    if (!response.ok) throw new Error(`the server says ${response.status}`);
    bytes = await response.arrayBuffer();
  } catch (error) {
    throw new Trouble(`${name} cannot be loaded: ${cause(error)}.`);
  }
  const found = Array.from(new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)), byte => byte.toString(16).padStart(2, "0"));
  if (found.join("") !== digest) {
    throw new Trouble(`${name} is not the file that was written with this page (its SHA-256 is another), so nothing is run.`);
  }
  return bytes;
}

async function unpacked(bytes) {
  if (!globalThis.DecompressionStream) throw new Trouble("This browser cannot unpack gzip by itself. Any browser since 2023 can.");
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Whether there is WebGPU worth the name; else why not. */
async function whyNoWebgpu() {
  if (!navigator.gpu) return "this browser has no WebGPU";
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) return "this browser’s WebGPU finds no graphics processor";
  const isSlow = adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter;
  return isSlow || adapter.info?.architecture === "swiftshader" ? "its WebGPU is only imitated by the processor here" : null;
}

/** Makes the network ready on `wanted`, or on what there is; the page says which, and why. */
async function start(wanted) {
  let why = "";
  if (wanted !== "wasm") {
    why = wanted === "webgpu" && navigator.gpu ? null : await whyNoWebgpu();
    if (!why) {
      try {
        await load("webgpu");
      } catch (error) {
        if (error instanceof Trouble) throw error;
        why = `WebGPU refuses it: ${firstLine(error)}`;
      }
    }
  }
  if (wanted === "wasm" || why) await load("wasm");
  sayState(why);
}

/** One after the other, in the order of asking: no run begins while another one, or a change of session, is under way. */
function alone(act) {
  const mine = turn.then(act);
  turn = mine.catch(() => {});
  return mine;
}

async function load(wanted) {
  const [loaded, model] = await Promise.all([runtimeOf(wanted), fetched(about.model)]);
  const externalData = await Promise.all(about.data.map(async path => ({ path, data: new Uint8Array(await fetched(path)) })));
  await alone(async () => {
    const isWorthThreads = globalThis.crossOriginIsolated && model.byteLength > SMALL;
    loaded.env.wasm.numThreads = isWorthThreads ? Math.min(navigator.hardwareConcurrency, MOST_THREADS) : 1;
    loaded.env.logLevel = "error";
    let made;
    try {
      made = await loaded.InferenceSession.create(new Uint8Array(model), { executionProviders: [wanted], externalData });
    } catch (error) {
      if (wanted === "webgpu") throw error;
      throw new Trouble(`The network cannot be loaded here: ${cause(error)}.`);
    }
    await session?.release();
    [ort, session, backend, runs, uncounted] = [loaded, made, wanted, [], WARM_UP];
    at("verdict").hidden = true; // it was another one's
    drawSpeed();
  });
}

/** The very bytes that were checked are what runs, in this page and in its threads: nothing is asked for a second time. */
async function runtimeOf(wanted) {
  if (runtimes[wanted]) return runtimes[wanted];
  const { script, binary } = about.runtime[wanted];
  const [code, packed] = await Promise.all([fetched(script), fetched(binary)]);
  const loaded = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  loaded.env.wasm.wasmBinary = await unpacked(packed);
  return (runtimes[wanted] = loaded);
}

function sayState(why) {
  const threads = backend === "wasm" ? ort.env.wasm.numThreads : 0;
  const where = `Runs in ${NAMES[backend]}${threads > 1 ? ` in ${threads} threads` : threads ? " in one thread" : ""}, on this device`;
  at("state").replaceChildren(
    bold("✓ model checked"), ` (SHA-256 ${about.files[about.model].sha256.slice(0, 8)}…). ${where}${why ? `; ${why}` : ""}.`);
}

/** safetensors → question by question. */
function readGolden(bytes) {
  const length = Number(new DataView(bytes).getBigUint64(0, true));
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, length)));
  const found = [];
  for (const [key, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(head)) {
    if (key === "__metadata__" || dtype !== "F32") continue;
    const [, number, side, name] = key.match(/^(\d+)\.(input|output)\.(.*)$/);
    const question = (found[number] ??= { outputs: {} });
    const tensor = { shape, data: new Float32Array(bytes.slice(8 + length + begin, 8 + length + end)) };
    if (side === "input") question.input = tensor;
    else question.outputs[name] = tensor;
  }
  return found.filter(question => question?.input);
}

// ------------------------------------------------------------------------------------------------------------ running

/** Shows the picture to the network; while it is busy only the last one that came is kept. */
async function look(picture) {
  waiting = picture;
  if (busy) return;
  busy = true;
  try {
    while (waiting) {
      const next = waiting;
      waiting = null;
      try {
        await lookAt(next);
        at("trouble").hidden = true;
      } catch (error) {
        if (!waiting) throw error;
      }
    }
  } finally {
    busy = false;
  }
}

async function lookAt(picture) {
  const before = cleared, isFirst = !answer;
  const given = await run(picture.input, [1, ...about.shape]);
  if (cleared !== before) return; // nobody wants to know any more
  [shown, answer, largest, isBlank] = [picture, given, null, false];
  at("inverted").hidden = about.shape[0] !== 1 || !lastImage;
  drawAnswer();
  if (isFirst) beginWhereMostHappens();
  drawMaps();
  drawSpeed();
}

const run = (numbers, dims) => alone(() => inferred(numbers, dims));

/** For whoever has the session to itself. */
async function inferred(numbers, dims) {
  const feeds = { [about.input]: new ort.Tensor("float32", numbers, dims) };
  const began = performance.now();
  let outputs;
  try {
    outputs = await session.run(feeds);
  } catch (error) {
    throw new Trouble(`The network cannot be run here: ${cause(error)}.`);
  }
  const took = performance.now() - began;
  if (uncounted) uncounted -= 1;
  else if (runs.push(took) > MOST_RUNS) runs.shift();
  return Object.fromEntries(Object.entries(outputs).map(([name, { data, dims: shape }]) => [name, { data, shape }]));
}

function probabilities(scores) {
  const largest = Math.max(...scores);
  const shares = Array.from(scores, score => Math.exp(score - largest));
  const total = shares.reduce((sum, share) => sum + share, 0);
  return shares.map(share => share / total);
}

function drawAnswer() {
  const shares = probabilities(answer[about.scores].data);
  const order = shares.map((_, place) => place).sort((one, other) => shares[other] - shares[one]);
  const first = order[0], name = about.labels[first];
  at("label").textContent = name;
  at("label").classList.toggle("long", name.length > 4);
  at("share").textContent = `${percent(shares[first])} sure`;
  // Few classes keep their places, so that one sees them move; of many the likeliest are told.
  const told = about.labels.length <= 10 ? shares.map((_, place) => place) : order.slice(0, 5);
  at("bars").replaceChildren(...told.map(place => {
    const meter = element("meter", { min: 0, max: 1, "aria-label": about.labels[place] });
    meter.value = shares[place];
    const row = element("li", { class: place === first ? "first" : "" });
    row.append(element("span", {}, about.labels[place]), meter, element("span", { class: "number" }, percent(shares[place])));
    return row;
  }));
  later("spoken", 600, () => (at("spoken").textContent = `It takes this for ${name}, and is ${percent(shares[first])} sure.`));
}

const percent = share => `${(100 * share).toFixed(share < 0.0995 || share > 0.9995 ? 2 : 1)}\u00a0%`;

// ------------------------------------------------------------------------------------------- pictures → what it is shown
// As aaexport/pixels.py, number by number: the network must see what it saw in training.

/** {channels, height, width, data: (C, H, W) of 0…255} → what is fed: cropped, resized, normalised. */
function prepared(pixels, whole = false) {
  const [channels, height, width] = about.shape;
  const seen = resized(whole ? pixels : cropped(pixels, height, width), height, width);
  const input = new Float32Array(channels * height * width);
  for (let place = 0; place < input.length; place += 1) {
    const channel = Math.floor(place / (height * width));
    input[place] = Math.fround(Math.fround(seen.data[place] / 255) - Math.fround(about.mean[channel])) / Math.fround(about.std[channel]);
  }
  return { pixels: seen.data, input };
}

function cropped({ channels, height, width, data }, high, wide) {
  const scale = Math.max(high / (about.crop_share * height), wide / (about.crop_share * width));
  const rows = Math.min(Math.max(even(high / scale), 1), height), columns = Math.min(Math.max(even(wide / scale), 1), width);
  const top = (height - rows) >> 1, left = (width - columns) >> 1;
  const kept = new Uint8Array(channels * rows * columns);
  for (let channel = 0, to = 0; channel < channels; channel += 1) {
    for (let row = 0; row < rows; row += 1, to += columns) {
      const from = (channel * height + top + row) * width + left;
      kept.set(data.subarray(from, from + columns), to);
    }
  }
  return { channels, height: rows, width: columns, data: kept };
}

/** To the nearest whole number, halves to the even one. */
function even(value) {
  const below = Math.floor(value);
  return value - below === 0.5 ? below + (below % 2) : Math.round(value);
}

function resized(pixels, high, wide) {
  const columns = pixels.width === wide ? pixels : along(pixels, wide, "width");
  return columns.height === high ? columns : along(columns, high, "height");
}

/** One axis of a picture in another length: each place a weighted sum of neighbours, in whole numbers. */
function along({ channels, height, width, data }, length, axis) {
  const { starts, weights, precision } = weighed(axis === "width" ? width : height, length);
  const [rows, columns] = axis === "width" ? [height, length] : [length, width];
  const step = axis === "width" ? 1 : width;
  const out = new Uint8ClampedArray(channels * rows * columns);
  for (let channel = 0, to = 0; channel < channels; channel += 1) {
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1, to += 1) {
        const place = axis === "width" ? column : row, each = weights[place];
        let from = (channel * height + (axis === "width" ? row : starts[place])) * width + (axis === "width" ? starts[place] : column);
        let total = 1 << (precision - 1);
        for (let offset = 0; offset < each.length; offset += 1, from += step) total += data[from] * each[offset];
        out[to] = total >> precision;
      }
    }
  }
  return { channels, height: rows, width: columns, data: new Uint8Array(out.buffer) };
}

/** Where the neighbours of each place begin, and their weights as whole numbers of so many bits. */
function weighed(length, size) {
  const scale = length / size, support = Math.max(scale, 1), inverse = Math.min(1 / scale, 1);
  const starts = [], shares = [];
  for (let place = 0; place < size; place += 1) {
    const centre = scale * (place + 0.5), start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const count = Math.min(Math.trunc(centre + support + 0.5), length) - start;
    const triangle = Array.from({ length: count }, (_, offset) => Math.max(1 - Math.abs((start + offset - centre + 0.5) * inverse), 0));
    const total = triangle.reduce((sum, weight) => sum + weight, 0);
    starts.push(start);
    shares.push(triangle.map(weight => weight / total));
  }
  const largest = Math.max(...shares.flat());
  let precision = 0;
  while (precision < 22 && Math.trunc(0.5 + largest * 2 ** (precision + 1)) < 2 ** 15) precision += 1;
  return { starts, weights: shares.map(each => each.map(weight => Math.trunc(0.5 + weight * 2 ** precision))), precision };
}

/** RGBA → (C, H, W); gray as Pillow weighs it. */
function channelled({ data, width, height }, inverted = false) {
  const [channels] = about.shape, count = width * height, out = new Uint8Array(channels * count);
  for (let place = 0; place < count; place += 1) {
    const [red, green, blue] = [data[4 * place], data[4 * place + 1], data[4 * place + 2]];
    if (channels === 1) out[place] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    else [out[place], out[count + place], out[2 * count + place]] = [red, green, blue];
  }
  return { channels, height, width, data: inverted ? out.map(value => 255 - value) : out };
}

// ------------------------------------------------------------------------------------------------------------- showing

let strokes = []; // of the pen: lists of {x, y} from 0 to 1
let lastImage = null; // ImageData of what was dropped, for the checkbox that turns it round
const pen = { x: 0.5, y: 0.5, isDown: false, isShown: false };
const draws = () => about.shape[0] === 1 && Math.max(about.shape[1], about.shape[2]) <= 64;

function setUpInput() {
  const pad = at("pad"), [, height, width] = about.shape;
  const scale = SIDE / Math.max(height, width);
  [pad.width, pad.height] = [Math.round(width * scale), Math.round(height * scale)];
  at("how").textContent = draws()
    ? "Draw with a finger, the pointer, or the arrow keys (Space puts the pen down). Or drop or paste an image."
    : "Drop or paste an image anywhere on this page, or choose one.";
  at("hint").textContent = draws() ? "Draw here" : "Drop an image here";
  pad.setAttribute("role", draws() ? "application" : "img");
  pad.setAttribute("aria-label", draws() ? "Drawing area. Arrow keys move the pen, Space puts it down or lifts it, Delete clears." : "The picture that is shown");
  if (draws()) setUpDrawing(pad);
  at("file").addEventListener("change", event => showFile(event.target.files[0]).then(() => (event.target.value = "")));
  at("invert").addEventListener("change", () => lastImage && showImage(lastImage));
  addEventListener("dragover", event => (event.preventDefault(), at("frame").classList.add("over")));
  addEventListener("dragleave", event => event.relatedTarget === null && at("frame").classList.remove("over"));
  addEventListener("drop", event => {
    event.preventDefault();
    at("frame").classList.remove("over");
    showDropped(event.dataTransfer.files[0]);
  });
  addEventListener("paste", event => {
    const file = [...event.clipboardData.files][0];
    if (file) showFile(file);
  });
  setUpCamera();
}

function setUpDrawing(pad) {
  at("frame").classList.add("draws");
  at("clear").hidden = false;
  pad.tabIndex = 0;
  const place = event => {
    const box = pad.getBoundingClientRect();
    return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
  };
  pad.addEventListener("pointerdown", event => {
    if (!event.isPrimary || event.button) return; // one finger draws, and the main button
    pad.setPointerCapture(event.pointerId);
    chosenLast += 1;
    pen.isShown = pen.isDown = false;
    strokes.push([place(event)]);
    drawn();
  });
  pad.addEventListener("pointermove", event => {
    if (!pad.hasPointerCapture(event.pointerId) || !strokes.length) return; // its stroke was cleared away meanwhile
    const passed = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(passed.length ? passed : [event]).map(place));
    drawn(false);
  });
  for (const end of ["pointerup", "pointercancel"]) pad.addEventListener(end, event => pad.hasPointerCapture(event.pointerId) && strokes.length && drawn());
  pad.addEventListener("keydown", penKey);
  pad.addEventListener("blur", putPenAway);
  at("clear").addEventListener("click", clear);
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function penKey(event) {
  const step = STEPS[event.key];
  if (step) {
    [pen.x, pen.y] = [pen.x + step[0] / 16, pen.y + step[1] / 16].map(value => Math.min(Math.max(value, 0), 1));
    if (pen.isDown) strokes.at(-1).push({ x: pen.x, y: pen.y });
  } else if (event.key === " " || event.key === "Enter") {
    pen.isDown = !pen.isDown;
    if (pen.isDown) chosenLast += 1, strokes.push([{ x: pen.x, y: pen.y }]);
    at("spoken").textContent = pen.isDown ? "The pen is down." : "The pen is lifted.";
  } else if (event.key === "Delete" || event.key === "Backspace") {
    clear();
  } else {
    return;
  }
  event.preventDefault();
  pen.isShown = true;
  if (strokes.length) drawn();
  else drawPad();
}

/** Once the keyboard is elsewhere: what it was held over, and not drawn on, is seen again. */
function putPenAway() {
  if (!pen.isShown) return;
  pen.isShown = pen.isDown = false;
  if (strokes.length || isBlank) drawPad();
  else showOnPad(shown.pixels);
}

/** Another picture, or none, takes the drawing's place: no stroke goes on. */
function replaceDrawing(image) {
  chosenLast += 1;
  [strokes, lastImage, pen.isDown, pen.isShown] = [[], image, false, false];
}

function clear() {
  replaceDrawing(null);
  [waiting, isBlank] = [null, true];
  cleared += 1;
  drawPad();
  at("inverted").hidden = true;
  at("hint").hidden = false;
  at("label").textContent = "–";
  at("share").textContent = "";
  at("bars").replaceChildren();
  later("spoken", 0, () => (at("spoken").textContent = "Cleared."));
}

/** Follows the pen: at once where a run is quick, else when it is lifted. */
function drawn(isEnd = true) {
  lastImage = null;
  drawPad();
  if (isEnd || quantile(runs, 0.5) < LIVE) guarded(look)(fromStrokes());
}

function drawPad() {
  const pad = at("pad"), context = pad.getContext("2d");
  pad.classList.remove("exact");
  at("hint").hidden = strokes.length > 0 || pen.isShown;
  ink(context, strokes.map(stroke => stroke.map(({ x, y }) => [x * pad.width, y * pad.height])), pad.width, pad.height);
  if (!pen.isShown) return;
  context.strokeStyle = MARK;
  context.lineWidth = 3;
  context.beginPath();
  context.arc(pen.x * pad.width, pen.y * pad.height, 10, 0, 2 * Math.PI);
  if (pen.isDown) context.fillStyle = MARK, context.fill();
  context.stroke();
}

/** White lines on black, as thick as those of the data are: about one pixel and a half of what the network is shown. */
function ink(context, lines, width, height) {
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.strokeStyle = context.fillStyle = "#fff";
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = (1.45 * width) / Math.min(about.shape[2], 14);
  for (const [[x, y], ...rest] of lines) {
    context.beginPath();
    context.moveTo(x, y);
    if (!rest.length) context.lineTo(x + 0.01, y);
    for (const [nextX, nextY] of rest) context.lineTo(nextX, nextY);
    context.stroke();
  }
}

/** The drawing, moved and scaled as the pictures of the data are: they fill their square, or most of it. */
function fromStrokes() {
  const { width, height } = at("pad"), points = strokes.flat();
  const [left, right] = [Math.min, Math.max].map(pick => pick(...points.map(point => point.x * width)));
  const [top, bottom] = [Math.min, Math.max].map(pick => pick(...points.map(point => point.y * height)));
  const line = (1.45 * width) / Math.min(about.shape[2], 14), room = filled() * width - line;
  const scale = room / Math.max(right - left, bottom - top, 0.25 * width);
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext("2d", { willReadFrequently: true });
  const moved = strokes.map(stroke => stroke.map(({ x, y }) => [
    width / 2 + (x * width - (left + right) / 2) * scale, height / 2 + (y * height - (top + bottom) / 2) * scale]));
  ink(context, moved, width, height);
  return prepared(channelled(context.getImageData(0, 0, width, height)), true);
}

/** The share of their square that the known pictures fill, from edge to edge. */
function filled() {
  const [, height, width] = about.shape;
  const extents = samples().map(({ pixels }) => {
    const rows = new Set(), columns = new Set();
    pixels.forEach((value, place) => value > 40 && (rows.add(Math.floor(place / width)), columns.add(place % width)));
    const extent = found => Math.max(...found) - Math.min(...found) + 1;
    return Math.max(extent(rows) / height, extent(columns) / width);
  });
  return extents.length ? extents.reduce((sum, extent) => sum + extent, 0) / extents.length : 0.9;
}

const showFile = guarded(async file => {
  if (!file) return;
  const name = file.name || "What was pasted", mine = (chosenLast += 1);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Trouble(`${name} ${IMAGE_TROUBLE}`);
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) throw new Trouble(`${name} has more than ${MOST_PIXELS.toLocaleString("en")} pixels.`);
  const image = imageData(bitmap, bitmap.width, bitmap.height);
  const read = isOpaque(image) ? image : withoutAlpha(bitmap, name);
  if (mine === chosenLast) await showImage(read);
});

function isOpaque({ data }) {
  for (let place = 3; place < data.length; place += 4) if (data[place] !== 255) return false;
  return true;
}

function imageData(source, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

const showDropped = guarded(async file => {
  if (!file) throw new Trouble("What was dropped is no file. Save the picture first, or copy and paste it.");
  await showFile(file);
});

/** The colours as they are in the file, as training reads them: a canvas mixes them with what lies beneath, WebGL does not. */
function withoutAlpha(bitmap, name) {
  const { width, height } = bitmap, gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) {
    throw new Trouble(`${name} has transparent places, whose colours this browser does not tell${gl ? " of so large a picture" : ""}.`);
  }
  const image = new ImageData(width, height);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const pixels = new Uint8Array(image.data.buffer);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return image;
}

const showImage = guarded(async image => {
  replaceDrawing(image);
  const picture = prepared(channelled(image, at("invert").checked && about.shape[0] === 1));
  showOnPad(picture.pixels);
  await look(picture);
});

/** What the network is shown, pixel by pixel, where one drew. */
function showOnPad(pixels) {
  const pad = at("pad"), [, height, width] = about.shape;
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(coloured(pixels), 0, 0);
  const context = pad.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, pad.width, pad.height);
  pad.classList.add("exact");
  at("hint").hidden = true;
}

function coloured(pixels) {
  const [channels, height, width] = about.shape, count = height * width, image = new ImageData(width, height);
  for (let place = 0; place < count; place += 1) {
    for (let channel = 0; channel < 3; channel += 1) image.data[4 * place + channel] = pixels[(channels === 1 ? 0 : channel) * count + place];
    image.data[4 * place + 3] = 255;
  }
  return image;
}

let camera = null; // the stream that is open, true while somebody is asked for one

async function openCamera() {
  if (camera) return;
  camera = true;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    camera = null;
    throw new Trouble(`The camera cannot be used: ${firstLine(error)}.`);
  }
  camera = stream;
  if (document.hidden) return closeCamera(); // somebody went away before it was allowed
  const video = at("video");
  video.onloadeddata = null;
  video.srcObject = stream;
  at("waiting").hidden = true;
  stream.getTracks().forEach(track => track.addEventListener("ended", closeCamera));
  at("shot").showModal();
}

/** Takes what it shows, once it shows something. */
function takePicture() {
  const video = at("video");
  if (video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || !video.videoWidth) {
    at("waiting").hidden = false;
    video.onloadeddata = takePicture;
    return;
  }
  const image = imageData(video, video.videoWidth, video.videoHeight);
  closeCamera();
  showImage(image);
}

/** No camera runs that nobody looks through: not after the picture, and not in a tab that is left. */
function closeCamera() {
  if (camera instanceof MediaStream) camera.getTracks().forEach(track => track.stop());
  if (camera !== true) camera = null;
  at("video").onloadeddata = null;
  if (at("shot").open) at("shot").close();
}

function setUpCamera() {
  at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  at("camera").addEventListener("click", guarded(openCamera));
  at("take").addEventListener("click", takePicture);
  at("close").addEventListener("click", closeCamera);
  at("shot").addEventListener("close", closeCamera); // by the Escape key too
  document.addEventListener("visibilitychange", () => document.hidden && closeCamera());
  addEventListener("pagehide", closeCamera);
}

// ------------------------------------------------------------------------------------------------------------ examples

let kept = null;

/** The golden pictures, where they are pictures at all and not noise. */
function samples() {
  if (kept) return kept;
  const [channels, height, width] = about.shape, count = height * width;
  kept = golden.filter(({ input }) => input.data.length === channels * count).map(({ input }) => {
    const shares = Array.from(input.data, (value, place) => value * about.std[Math.floor(place / count)] + about.mean[Math.floor(place / count)]);
    const isPicture = shares.every(share => share > -0.02 && share < 1.02);
    return { input: input.data, isPicture, pixels: Uint8Array.from(shares, share => Math.round(255 * Math.min(Math.max(share, 0), 1))) };
  }).filter(each => each.isPicture);
  return kept;
}

function setUpSamples() {
  at("samples").hidden = !samples().length;
  const [, height, width] = about.shape;
  at("samples").append(...samples().map((sample, number) => {
    const button = element("button", { type: "button", "aria-label": `Example ${number + 1}` });
    const canvas = element("canvas", { width, height, "aria-hidden": "true" });
    canvas.getContext("2d").putImageData(coloured(sample.pixels), 0, 0);
    button.append(canvas);
    button.addEventListener("click", () => showSample(sample));
    return button;
  }));
}

const showSample = guarded(async sample => {
  replaceDrawing(null);
  showOnPad(sample.pixels);
  await look({ pixels: sample.pixels, input: sample.input });
});

// ----------------------------------------------------------------------------------------------------- where it looks

const layers = () => [...new Set(about.attention.map(each => each.layer))];
const heads = () => [...new Set(about.attention.map(each => each.head))];

function setUpLooking() {
  if (!about.attention.length) return;
  chosen.layers.add(layers().at(-1));
  heads().forEach(head => chosen.heads.add(head));
  pickLayers();
  picks("heads", heads(), chosen.heads, head => `head ${head + 1}`);
  at("beneath").addEventListener("change", drawMaps);
  const seen = at("seen");
  [seen.width, seen.height] = [240, Math.round((240 * about.shape[1]) / about.shape[2])];
  follow(seen);
  seen.addEventListener("keydown", lookKey);
  const scale = at("scale").getContext("2d"), image = scale.createImageData(256, 1);
  for (let place = 0; place < 256; place += 1) image.data.set([...viridis(place / 255), 255], 4 * place);
  scale.putImageData(image, 0, 0);
  layOut();
}

function pickLayers() {
  const size = layer => about.attention.find(each => each.layer === layer);
  picks("layers", layers(), chosen.layers, (layer, place) => `layer ${place + 1} · ${size(layer).height} × ${size(layer).width}`, layer => layer);
}

/** At the layer and the place where a head is most decided, so that the first thing to be seen is something. */
function beginWhereMostHappens() {
  if (!about.attention.length || !answer) return;
  let [most, best, begin] = [0, about.attention[0], 0];
  for (const each of about.attention) {
    const count = each.height * each.width;
    answer[each.output].data.forEach((weight, place) => weight * count > most && ([most, best, begin] = [weight * count, each, place]));
  }
  const place = Math.floor(begin / (best.height * best.width));
  query = { y: (Math.floor(place / best.width) + 0.5) / best.height, x: ((place % best.width) + 0.5) / best.width };
  at("look").hidden = false;
  chosen.layers.clear();
  chosen.layers.add(best.layer);
  pickLayers();
  layOut();
  drawMaps();
}

/** Buttons that are on or off, one at least on. */
function picks(id, values, on, told, title = () => null) {
  at(id).replaceChildren(...values.map((value, place) => {
    const button = element("button", { type: "button", "aria-pressed": on.has(value), title: title(value) }, told(value, place));
    button.addEventListener("click", () => {
      if (on.has(value) && on.size > 1) on.delete(value);
      else on.add(value);
      button.setAttribute("aria-pressed", on.has(value));
      layOut();
      drawMaps();
    });
    return button;
  }));
}

/** A canvas for each chosen head of each chosen layer. */
function layOut() {
  largest = null;
  const wanted = about.attention.filter(each => chosen.layers.has(each.layer) && chosen.heads.has(each.head));
  at("maps").replaceChildren(...wanted.map(each => {
    const canvas = element("canvas", { width: 180, height: Math.round((180 * about.shape[1]) / about.shape[2]), role: "img" });
    canvas.dataset.output = each.output;
    follow(canvas);
    const figure = element("figure", { class: "map" });
    figure.append(canvas, element("figcaption"));
    return figure;
  }));
}

function follow(canvas) {
  const moved = event => {
    const box = canvas.getBoundingClientRect();
    query = { y: inside((event.clientY - box.top) / box.height), x: inside((event.clientX - box.left) / box.width) };
    soon(drawMaps);
  };
  canvas.addEventListener("pointermove", moved);
  canvas.addEventListener("pointerdown", moved);
}

const inside = share => Math.min(Math.max(share, 0), 0.999999);

function lookKey(event) {
  const step = STEPS[event.key];
  if (!step) return;
  event.preventDefault();
  const finest = finestMap();
  query = { y: inside((Math.floor(query.y * finest.height) + step[1] + 0.5) / finest.height), x: inside((Math.floor(query.x * finest.width) + step[0] + 0.5) / finest.width) };
  drawMaps();
}

const finestMap = () => about.attention.filter(each => chosen.layers.has(each.layer)).reduce((most, each) => (each.height > most.height ? each : most));

/** Of one place, (H, W): the weights in multiples of what each would have if all were weighed alike. */
function weightsOf({ output, height, width }) {
  const count = height * width, row = Math.floor(query.y * height), column = Math.floor(query.x * width);
  const begin = (row * width + column) * count;
  return { row, column, weights: answer[output].data.subarray(begin, begin + count).map(weight => weight * count) };
}

/** The largest of any place and any chosen head: one scale for all of them, which stays as one moves about. */
function largestWeight() {
  if (largest !== null) return largest;
  let most = 1;
  for (const each of about.attention) {
    if (!chosen.layers.has(each.layer) || !chosen.heads.has(each.head)) continue;
    const count = each.height * each.width;
    for (const weight of answer[each.output].data) if (weight * count > most) most = weight * count;
  }
  return (largest = most);
}

function drawMaps() {
  if (!about.attention.length || !answer) return;
  const most = largestWeight();
  drawSeen(finestMap());
  const told = [...at("maps").querySelectorAll("canvas")].map(canvas => drawMap(canvas, most));
  drawTicks(most);
  const finest = finestMap(), place = `row ${Math.floor(query.y * finest.height) + 1}, column ${Math.floor(query.x * finest.width) + 1}`;
  at("seen").setAttribute("aria-label", `The picture. Looked from ${place} of ${finest.height} × ${finest.width}. Arrow keys move there.`);
  later("told", 350, () => (at("told").textContent = `From ${place}: ${told.join("; ")}.`));
}

function drawSeen({ height, width }) {
  const canvas = at("seen"), context = canvas.getContext("2d");
  paint(context, coloured(shown.pixels), canvas);
  outline(context, canvas, Math.floor(query.y * height), Math.floor(query.x * width), height, width);
}

/** Colours one head's map, and says what it weighs most. */
function drawMap(canvas, top) {
  const each = about.attention.find(one => one.output === canvas.dataset.output);
  const { row, column, weights } = weightsOf(each), context = canvas.getContext("2d");
  const image = new ImageData(each.width, each.height);
  weights.forEach((weight, place) => image.data.set([...viridis(weight / top), 255], 4 * place));
  paint(context, image, canvas);
  if (at("beneath").checked) {
    context.globalAlpha = BENEATH;
    paint(context, coloured(shown.pixels), canvas);
    context.globalAlpha = 1;
  }
  outline(context, canvas, row, column, each.height, each.width);
  let most = 0;
  weights.forEach((weight, place) => weight > weights[most] && (most = place));
  const name = `${layers().length > 1 && chosen.layers.size > 1 ? `layer ${layers().indexOf(each.layer) + 1}, ` : ""}head ${each.head + 1}`;
  const [strength, where] = [`${times(weights[most])} ×`, `row ${Math.floor(most / each.width) + 1}, column ${(most % each.width) + 1}`];
  canvas.parentElement.lastElementChild.replaceChildren(element("span", {}, name), element("span", {}, `up to ${strength}`));
  canvas.setAttribute("aria-label", `${name} counts ${where} most, ${strength} as much as if it weighed all places alike`);
  return `${name} counts ${where} most (${strength})`;
}

function paint(context, image, canvas) {
  const small = new OffscreenCanvas(image.width, image.height);
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

function outline(context, canvas, row, column, height, width) {
  context.strokeStyle = MARK;
  context.lineWidth = 3;
  const [high, wide] = [canvas.height / height, canvas.width / width];
  context.strokeRect(column * wide + 1.5, row * high + 1.5, Math.max(wide - 3, 1), Math.max(high - 3, 1));
}

function drawTicks(top) {
  const tick = (text, share) => {
    const span = element("span", {}, text);
    if (share > 0.7) span.style.right = `${100 * (1 - share)}%`;
    else span.style.left = `${100 * share}%`;
    return span;
  };
  const uniform = 1 / top, ticks = [tick("0", 0), tick(`${times(top)} × uniform`, 1)];
  if (uniform > 0.06 && uniform < 0.6) ticks.push(tick("1 × (all alike)", uniform));
  at("ticks").replaceChildren(...ticks);
}

function viridis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1), below = Math.min(Math.floor(place), VIRIDIS.length - 2);
  return VIRIDIS[below].map((channel, number) => Math.round(channel + (VIRIDIS[below + 1][number] - channel) * (place - below)));
}

const times = weight => (weight < 999.5 ? String(Number(weight.toPrecision(3))) : Math.round(weight).toLocaleString("en"));

// ------------------------------------------------------------------------------------------------------------ how fast

function setUpSpeed() {
  at("again").addEventListener("click", guarded(async () => {
    if (!shown) throw new Trouble("Show it a picture first.");
    at("again").disabled = true;
    try {
      for (let left = 100; left > 0; left -= 1) {
        await run(shown.input, [1, ...about.shape]);
        if (left % 10 === 1) drawSpeed(), await new Promise(requestAnimationFrame);
      }
    } finally {
      at("again").disabled = false;
    }
  }));
  at("backend").addEventListener("change", guarded(async event => {
    const select = event.target;
    select.disabled = true;
    try {
      await start(select.value);
      if (select.value !== "auto" && select.value !== backend) {
        select.value = backend;
        at("state").scrollIntoView({ block: "nearest" }); // there it says why it is another one
      }
      if (!isBlank) await look(shown);
    } catch (error) {
      select.value = backend;
      throw error;
    } finally {
      select.disabled = false;
    }
  }));
}

function quantile(values, share) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted.length ? sorted[Math.ceil(share * sorted.length) - 1] : 0;
}

const milliseconds = value => `${value < 9.95 ? value.toFixed(2) : value < 99.5 ? value.toFixed(1) : Math.round(value)} ms`;

function drawSpeed() {
  if (!runs.length) {
    for (const id of ["last", "p50", "p90"]) at(id).textContent = "–";
    at("course").replaceChildren();
    at("runs").textContent = "";
    return;
  }
  const [half, most] = [quantile(runs, 0.5), quantile(runs, 0.9)];
  at("last").textContent = milliseconds(runs.at(-1));
  at("p50").textContent = milliseconds(half);
  at("p90").textContent = milliseconds(most);
  at("runs").textContent = `${runs.length} run${runs.length > 1 ? "s" : ""} in ${NAMES[backend]}, each with ${about.attention.length ? "the attention of every layer" : "all its outputs"}: p50 ${milliseconds(half)}, p90 ${milliseconds(most)}.`;
  const last = runs.slice(-DRAWN_RUNS), top = Math.max(...last) * 1.1, place = (value, number) => `${(100 * number) / Math.max(last.length - 1, 1)} ${40 - (40 * value) / top}`;
  const chart = drawing("svg", { class: "course", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": `The last ${last.length} runs, the slowest ${milliseconds(Math.max(...last))}; the dashed line is p50` });
  chart.append(drawing("line", { x1: 0, x2: 100, y1: 40 - (40 * half) / top, y2: 40 - (40 * half) / top }), drawing("path", { d: `M${last.map(place).join("L")}` }));
  at("course").replaceChildren(chart);
}

// ---------------------------------------------------------------------------------------------------------- same numbers

const isExact = () => about.dtype === "float32";

function setUpProof() {
  if (!isExact()) at("proof-title").textContent = "How close to PyTorch?";
  at("record").textContent = about.record?.told
    ?? "Nobody has compared this very file with PyTorch as far as is known; the button does, on the pictures whose answers are known.";
  at("prove").addEventListener("click", guarded(prove));
  const { version } = about.runtime, sizes = Object.values(about.files).reduce((sum, file) => sum + file.bytes, 0);
  const rows = { model: about.name, "SHA-256": about.onnx_sha256, precision: about.dtype, "runs by": `onnxruntime-web ${version}`, size: `${(sizes / 1e6).toFixed(1)} MB in all`, "compared with PyTorch": about.record ? about.record.date ?? "at a time that was not kept" : "not known" };
  at("facts").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}

async function prove() {
  at("prove").disabled = true;
  try {
    const { worst, numbers, wrong, ofAllowed } = await alone(proof);
    const verdict = at("verdict"), said = `${golden.length} picture${golden.length > 1 ? "s" : ""}, ${numbers} numbers; the largest difference is ${worst.toExponential(1)}, ${Number((100 * ofAllowed).toPrecision(2))} % of what is allowed.`;
    const right = isExact() ? "Yes, the same numbers. " : "Yes, this file answers here as it did where it was made. ";
    verdict.hidden = false;
    verdict.className = `verdict ${wrong ? "bad" : "good"}`;
    verdict.replaceChildren(bold(wrong ? `No: ${wrong} of ${golden.length} pictures have other answers here. ` : right), said);
    document.documentElement.dataset.proof = wrong ? "wrong" : "right";
    drawSpeed();
  } finally {
    at("prove").disabled = false;
  }
}

/** Asks every golden question here and now. */
async function proof() {
  const { absolute, share } = about.allowed[backend];
  let [worst, numbers, wrong, ofAllowed] = [0, 0, 0, 0];
  for (const { input, outputs } of golden) {
    const given = await inferred(input.data, input.shape);
    let isWrong = false;
    for (const [name, { data }] of Object.entries(outputs)) {
      const size = data.reduce((most, value) => Math.max(most, Math.abs(value)), 0), allowed = absolute + share * size;
      const error = data.reduce((most, value, place) => Math.max(most, Math.abs(value - given[name].data[place])), 0);
      [worst, ofAllowed, numbers] = [Math.max(worst, error), Math.max(ofAllowed, error / allowed), numbers + data.length];
      isWrong ||= !(error <= allowed); // NaN is wrong too
    }
    wrong += isWrong;
  }
  if (!numbers) throw new Trouble("There is no known answer here that could be compared.");
  return { worst, numbers, wrong, ofAllowed };
}

// --------------------------------------------------------------------------------------------------------------- small

function element(name, attributes = {}, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== "") made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

function drawing(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const bold = text => element("b", {}, text);

const firstLine = error => String(error?.message ?? error).split("\n")[0].replace(/\.$/, "");

/** What went wrong, in words; of memory the runtime tells a number, and browsers each something else. */
function cause(error) {
  const told = firstLine(error);
  const isMemory = typeof error === "number" || /\bmemory\b|allocat|bad_alloc/i.test(told);
  return isMemory ? "this browser has too little memory for it" : told;
}

const due = new Set();

/** Once, before the next frame, however often it is asked for until then. */
function soon(act) {
  if (due.has(act)) return;
  due.add(act);
  requestAnimationFrame(() => (due.delete(act), act()));
}

const timers = {};

/** Once it has been quiet for so long: a screen reader is not to be flooded. */
function later(name, delay, act) {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(act, delay);
}

/** The same function, whose failures are told on the page. */
function guarded(act) {
  return async (...given) => {
    try {
      at("trouble").hidden = true;
      await act(...given);
    } catch (error) {
      at("trouble").hidden = false;
      at("trouble").replaceChildren(bold("That did not work. "), error instanceof Trouble ? error.message : `${firstLine(error)}.`);
      at("trouble").scrollIntoView({ block: "nearest" }); // who is further down sees it too
      if (!(error instanceof Trouble)) console.error(error);
    }
  };
}

guarded(async () => {
  try {
    await begin();
  } catch (error) {
    at("state").textContent = "The network does not run here.";
    throw error;
  }
})();
