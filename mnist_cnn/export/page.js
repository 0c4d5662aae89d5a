// What is on the page: the paper and the pen, and the network at work. network.js and digit.js,
// which stand before it, work out what is shown.

"use strict";

const INK_SIDE = 280; // pixels of the ink that is read: ten for each of MNIST's
const PEN = 0.085; // the pen's width, as a share of the paper's

const find = (selector) => document.querySelector(selector);

// ---- what is shown ----------------------------------------------------------------------------

// Black for 0; through blue to white for what is positive, through orange for what is negative:
// these two are told apart with any kind of colour vision. One colour for each of -255..255.
const PALETTE = Uint32Array.from({ length: 511 }, (_, i) => {
  const [strength, colour] = [Math.abs(i - 255) / 255, i < 255 ? [213, 94, 0] : [0, 114, 178]];
  const [red, green, blue] = colour.map((value) =>
    strength < 0.5 ? 2 * strength * value : value + (2 * strength - 1) * (255 - value),
  );
  return (255 << 24) | (blue << 16) | (green << 8) | red; // bytes in memory: red, green, blue, 255
});
const GREYS = PALETTE.map((_, i) => (255 << 24) | (Math.max(0, i - 255) * 0x010101));

// Draws numbers, of which `largest` gets the brightest colour, as a canvas's pixels.
function paint(canvas, values, largest, palette = PALETTE) {
  const context = canvas.getContext("2d");
  canvas.picture ??= context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(canvas.picture.data.buffer);
  const scale = 255 / (largest || 1);
  for (let i = 0; i < values.length; i++) pixels[i] = palette[Math.round(255 + scale * values[i])];
  context.putImageData(canvas.picture, 0, 0);
}

function makeCanvas(width, height, label) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  if (label) {
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
  }
  return canvas;
}

const largestOf = (values) => values.reduce((a, b) => Math.max(a, b), 0);
const number = (value, digits = 2) => {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
};
const thousands = (count) => count.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const describe = (share) => (share < 0.9995 ? percent(share) : "over 99.9 %"); // never 100 %

let network; // what `unpack` returns, once it is unpacked
let shown = null; // what `run` made of the drawing; null where there is none
let inputCanvas, hiddenCanvas;
const maps = [[], []]; // of each convolution, the buttons that show its maps

function makeButton(label, onClick) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", label);
  button.addEventListener("click", onClick);
  return button;
}

function buildPage() {
  // A browser that saves a page as it stands on the screen saves these too.
  const built = "#input > *, .maps > *, #hidden > *, .examples > button, .inspector";
  for (const old of document.querySelectorAll(built)) old.remove();
  const [conv1, conv2, fc1] = network.layers;
  let weights = 0;
  for (const { filters, inputs } of network.layers) weights += filters * (inputs + 1); // and a bias
  find("#facts").textContent =
    `The network has ${thousands(weights)} weights and was trained on ${network.trained_on}.`;
  inputCanvas = makeCanvas(SIDE, SIDE, "The picture that the network sees");
  find("#input").append(inputCanvas, makeMark());
  for (const [l, { filters, channels, kernel, pooled }] of [conv1, conv2].entries()) {
    const size = channels > 1 ? `${channels}×${kernel}×${kernel}` : `${kernel}×${kernel}`;
    find(`#stage-conv${l + 1} small`).textContent =
      `${filters} filters of ${size} → ${filters} maps of ${pooled}×${pooled}`;
    for (let f = 0; f < filters; f++) {
      const label = `Map ${f + 1} of convolution ${l + 1}`;
      const button = makeButton(label, (event) => choose(l, f, event));
      button.className = "map";
      button.append(makeCanvas(pooled, pooled), makeMark());
      button.addEventListener("pointermove", (event) => follow(l, f, event));
      button.addEventListener("keydown", (event) => step(l, f, event));
      maps[l].push(button);
    }
    const group = find(`#maps${l + 1}`);
    group.append(...maps[l]);
    group.style.setProperty("--columns", Math.ceil(filters / Math.ceil(filters / 16))); // full rows
  }
  find("#temperature").textContent = number(network.temperature);
  find("#cooling").hidden = network.temperature === 1; // none was fitted to it
  find("#stage-hidden small").textContent =
    `${fc1.filters} sums of all ${thousands(fc1.inputs)} pixels above, each times a weight; ReLU`;
  const columns = 64;
  hiddenCanvas = makeCanvas(columns, Math.ceil(fc1.filters / columns), "The hidden layer");
  find("#hidden").append(hiddenCanvas);
  const bar = '<span class="bar"><i></i></span><span></span><span></span>';
  const rows = network.classes.map((name) => `<li><span>${name}</span>${bar}</li>`);
  find("#bars").innerHTML = rows.join("");
  EXAMPLES.forEach((example, digit) => {
    const button = makeButton(`Draw a ${digit}`, () => replaceDrawing(example));
    button.textContent = digit;
    find(".examples").append(button);
  });
}

// Shows what `run` made of the drawing; null clears all.
function show(result) {
  shown = result;
  const [conv1, conv2, fc1] = network.layers;
  const blank = (count) => new Float32Array(count);
  paint(inputCanvas, result?.image ?? blank(SIDE * SIDE), 1, GREYS);
  for (const [l, { pooled }] of [conv1, conv2].entries()) {
    const values = result?.[`maps${l + 1}`] ?? blank(maps[l].length * pooled ** 2);
    const largest = largestOf(values); // the same for all, so that they can be compared
    maps[l].forEach((button, f) => {
      paint(button.firstChild, values.subarray(f * pooled ** 2, (f + 1) * pooled ** 2), largest);
    });
  }
  const hidden = result?.hidden ?? blank(fc1.filters);
  paint(hiddenCanvas, hidden, largestOf(hidden));
  const probabilities = result?.probabilities ?? blank(network.classes.length);
  const best = result ? probabilities.indexOf(largestOf(probabilities)) : -1;
  [...find("#bars").children].forEach((row, i) => {
    row.classList.toggle("likeliest", i === best);
    row.children[1].firstChild.style.width = `${100 * probabilities[i]}%`;
    row.children[2].textContent = result ? percent(probabilities[i]) : "";
    row.children[3].textContent = result ? number(result.logits[i], 1) : "";
  });
  find("#digit").textContent = result ? network.classes[best] : "?";
  find("#sure").textContent = result ? `${describe(probabilities[best])} sure` : "";
  explain();
}

// Tells a screen reader the answer: when a stroke is over, not while the pen moves.
function announce() {
  find("#status").textContent = shown
    ? `The network reads a ${find("#digit").textContent}, ${find("#sure").textContent}.`
    : "The paper is blank.";
}

// ---- one pixel of a map worked out ------------------------------------------------------------

let chosen = null; // {l: which convolution, f: which filter, x, y: which pixel, c: which channel}
const inspector = find("#inspector-template").content.firstElementChild.cloneNode(true);

function choose(l, f, event) {
  const { pooled } = network.layers[l];
  const again = chosen && chosen.l === l;
  chosen = { l, f, x: 0, y: 0, c: again ? chosen.c : null };
  if (event.detail) Object.assign(chosen, pixelUnder(event, l, f));
  else if (shown) { // by keyboard: where the map is brightest
    const map = shown[`maps${l + 1}`].subarray(f * pooled ** 2, (f + 1) * pooled ** 2);
    const brightest = map.indexOf(largestOf(map));
    Object.assign(chosen, { x: brightest % pooled, y: Math.floor(brightest / pooled) });
  }
  maps.forEach((buttons, i) => buttons.forEach((button, j) => {
    button.setAttribute("aria-pressed", i === l && j === f);
  }));
  if (!again) {
    find(`#maps${l + 1}`).after(inspector);
    buildChannels(network.layers[l]);
  }
  explain();
}

// The pixel of a map that is under the pointer.
function pixelUnder(event, l, f) {
  const { left, top, width } = maps[l][f].firstChild.getBoundingClientRect();
  const { pooled } = network.layers[l];
  const place = (share) => Math.min(Math.max(Math.floor(share * pooled), 0), pooled - 1);
  return { x: place((event.clientX - left) / width), y: place((event.clientY - top) / width) };
}

// On the map that is chosen, the pixel follows the pointer.
function follow(l, f, event) {
  if (chosen?.l !== l || chosen.f !== f) return;
  const { x, y } = pixelUnder(event, l, f);
  if (x === chosen.x && y === chosen.y) return;
  Object.assign(chosen, { x, y });
  explain();
}

// The arrow keys move the pixel.
const WAYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
function step(l, f, event) {
  const way = WAYS[event.key];
  if (!way || chosen?.l !== l || chosen.f !== f) return;
  event.preventDefault();
  const last = network.layers[l].pooled - 1;
  chosen.x = Math.min(Math.max(chosen.x + way[0], 0), last);
  chosen.y = Math.min(Math.max(chosen.y + way[1], 0), last);
  explain();
}

// A button for each map that the filter looks at, if there are several: what lies under the
// filter, the filter, and what they add to the sum.
function buildChannels({ channels, kernel }) {
  const list = inspector.querySelector(".channels");
  list.replaceChildren();
  for (let c = 0; channels > 1 && c < channels; c++) {
    const button = makeButton("", () => {
      chosen.c = c;
      explain();
    });
    const sum = document.createElement("span");
    button.append(makeCanvas(kernel, kernel), makeCanvas(kernel, kernel), sum);
    list.append(button);
  }
}

// What adds up to the sum of filter f at (y, x), of the sums before pooling: for each channel
// {patch, filter, products}, kernel^2 numbers each, and their sum.
function workOut({ channels, kernel, side, inputs, weight }, input, f, y, x) {
  return Array.from({ length: channels }, (_, c) => {
    const from = f * inputs + c * kernel ** 2;
    const filter = weight.subarray(from, from + kernel ** 2);
    const patch = filter.map((_, i) =>
      input[(c * side + y + Math.floor(i / kernel)) * side + x + (i % kernel)]);
    const products = filter.map((value, i) => value * patch[i]);
    return { patch, filter, products, sum: products.reduce((a, b) => a + b) };
  });
}

// Fills the inspector: of the four sums of which pooling kept one, that one in numbers.
function explain() {
  if (!chosen) return;
  const write = (part, html) => (inspector.querySelector(part).innerHTML = html);
  inspector.classList.toggle("blank", !shown);
  placeMarks(null);
  if (!shown) return write(".where", "Draw a digit to see it worked out.");
  const { l, f, x, y } = chosen;
  const layer = network.layers[l];
  const [input, sums] = l === 0 ? [shown.input, shown.sums1] : [shown.maps1, shown.sums2];
  const bias = layer.bias[f];
  const four = [0, 1, 2, 3].map((i) => {
    const [row, column] = [2 * y + (i >> 1), 2 * x + (i & 1)];
    return { row, column, sum: sums[(f * layer.out + row) * layer.out + column] };
  });
  const kept = four.reduce((a, b) => (b.sum > a.sum ? b : a));
  const parts = workOut(layer, input, f, kept.row, kept.column);
  const strengths = parts.map(({ sum }) => Math.abs(sum));
  const c = chosen.c ?? strengths.indexOf(largestOf(strengths));

  const seen = l === 0
    ? "the patch marked in the picture. (There, 0 is MNIST’s mean grey: ink is positive.)"
    : `the patch marked in map ${c + 1} above, in numbers; below, of all ${layer.channels} maps.`;
  const pixel = `<strong>Map ${f + 1}, row ${y + 1}, column ${x + 1}:</strong>`;
  write(".where", `${pixel} what filter ${f + 1} makes of ${seen}`);
  write(".patch", makeTable(parts[c].patch, layer.kernel));
  write(".filter", makeTable(parts[c].filter, layer.kernel));
  write(".product", makeTable(parts[c].products, layer.kernel));
  const brightest = largestOf(input.map(Math.abs));
  const heaviest = largestOf(parts.map((part) => largestOf(part.filter.map(Math.abs))));
  [...inspector.querySelector(".channels").children].forEach((button, i) => {
    const { patch, filter, sum } = parts[i];
    paint(button.children[0], patch, brightest);
    paint(button.children[1], filter, heaviest);
    button.lastChild.textContent = number(sum);
    button.setAttribute("aria-label", `Map ${i + 1} above adds ${number(sum)}: show in numbers`);
    button.setAttribute("aria-pressed", i === c);
  });
  const others = four.filter((one) => one !== kept).map(({ sum }) => number(sum));
  const sum = number(kept.sum - bias);
  const added = `${bias < 0 ? "−" : "+"} ${number(Math.abs(bias))}`;
  const relu = kept.sum > 0
    ? "and ReLU leaves it as it is."
    : "but it is negative: ReLU sets it to <strong>0</strong>.";
  write(".total", `All ${thousands(layer.inputs)} products add up to ${sum}; with the bias: ` +
    `${sum} ${added} = <strong>${number(kept.sum)}</strong>. The three neighbouring sums ` +
    `(${others.join(", ")}) are not larger, so pooling keeps it, ${relu}`);
  placeMarks(kept);
}

function makeTable(values, columns) {
  const largest = largestOf(values.map(Math.abs)) || 1;
  const cells = [...values].map((value) => {
    const share = Math.round((60 * Math.abs(value)) / largest); // more would hide the number
    const colour = `var(--${value < 0 ? "orange" : "blue"}) ${share}%, var(--panel)`;
    return `<td style="background:color-mix(in srgb, ${colour})">${number(value)}</td>`;
  });
  const rows = Array.from({ length: values.length / columns }, (_, y) =>
    `<tr>${cells.slice(y * columns, (y + 1) * columns).join("")}</tr>`);
  return `<tbody>${rows.join("")}</tbody>`;
}

function makeMark() {
  const mark = document.createElement("i");
  mark.className = "mark";
  mark.hidden = true;
  return mark;
}

// Outlines the pixel in its map, and what its filter saw: in the maps above, and in the picture.
// null takes the outlines away.
function placeMarks(kept) {
  for (const mark of document.querySelectorAll(".mark")) mark.hidden = true;
  if (!kept) return;
  const place = (map, x, y, size, side) => {
    const [left, top, width] = [x, y, size].map((pixels) => `${(100 * pixels) / side}%`);
    Object.assign(map.lastChild.style, { left, top, width, height: width });
    map.lastChild.hidden = false;
  };
  const [conv1, conv2] = network.layers;
  const { row, column } = kept;
  place(maps[chosen.l][chosen.f], chosen.x, chosen.y, 1, network.layers[chosen.l].pooled);
  if (chosen.l === 0) place(find("#input"), column, row, conv1.kernel, SIDE);
  else {
    for (const map of maps[0]) place(map, column, row, conv2.kernel, conv1.pooled);
    place(find("#input"), 2 * column, 2 * row, 2 * conv2.kernel + conv1.kernel - 1, SIDE);
  }
}

// ---- the pen ----------------------------------------------------------------------------------

// A stroke is a list of points [x, y], in shares of the paper's side.
const arc = (x, y, width, height, from, to) =>
  Array.from({ length: 33 }, (_, i) => {
    const angle = ((from + ((to - from) * i) / 32) * Math.PI) / 180;
    return [x + width * Math.cos(angle), y + height * Math.sin(angle)];
  });
const EXAMPLES = [
  [arc(0.5, 0.5, 0.2, 0.32, -90, 270)],
  [[[0.42, 0.28], [0.54, 0.18], [0.54, 0.82]]],
  [[...arc(0.5, 0.35, 0.19, 0.17, -170, 30), [0.3, 0.8], [0.72, 0.8]]],
  [[...arc(0.47, 0.34, 0.18, 0.16, -150, 80), ...arc(0.47, 0.66, 0.21, 0.17, -80, 150)]],
  [[[0.42, 0.18], [0.28, 0.56], [0.74, 0.56]], [[0.6, 0.36], [0.58, 0.84]]],
  [[[0.7, 0.2], [0.38, 0.2], [0.35, 0.46], ...arc(0.47, 0.63, 0.21, 0.19, -120, 140)]],
  [[[0.6, 0.16], [0.42, 0.36], ...arc(0.5, 0.65, 0.18, 0.19, 190, -170)]],
  [[[0.28, 0.22], [0.72, 0.22], [0.44, 0.82]]],
  [[...arc(0.5, 0.33, 0.15, 0.15, 90, -270), ...arc(0.5, 0.66, 0.18, 0.18, -90, 270)]],
  [[...arc(0.5, 0.36, 0.17, 0.17, 0, -360), [0.66, 0.4], [0.6, 0.84]]],
];

const paper = find("#paper");
const ink = makeCanvas(INK_SIDE, INK_SIDE); // the same drawing, at the size at which it is read
const inkContext = ink.getContext("2d", { willReadFrequently: true });
let strokes = [];
let isExample = false; // then the pen starts a clean sheet
let pen = null; // the pointer that is drawing

// Draws a stroke from point number `first` on, on a square canvas.
function drawStroke(context, points, first) {
  const side = context.canvas.width;
  context.lineWidth = PEN * side;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  const start = points[Math.max(0, first - 1)];
  context.moveTo(start[0] * side, start[1] * side);
  context.lineTo(start[0] * side + 0.01, start[1] * side); // a dot: a line of no length leaves none
  for (const [x, y] of points.slice(first)) context.lineTo(x * side, y * side);
  context.stroke();
}

// Redraws all strokes: when they were replaced, and when the paper's size on the screen changed.
function setStrokes(all) {
  strokes = all;
  paper.width = paper.height = Math.round(paper.clientWidth * (window.devicePixelRatio || 1));
  inkContext.clearRect(0, 0, INK_SIDE, INK_SIDE);
  for (const context of [preparePaper(), inkContext]) {
    for (const points of strokes) drawStroke(context, points, 0);
  }
  find(".hint").hidden = strokes.length > 0;
}

function preparePaper() {
  const context = paper.getContext("2d");
  context.strokeStyle = getComputedStyle(paper).color;
  return context;
}

// The ink on the paper, from 0 to 255.
function readInk() {
  const pixels = inkContext.getImageData(0, 0, INK_SIDE, INK_SIDE).data; // R, G, B, opacity
  const data = new Uint8ClampedArray(INK_SIDE * INK_SIDE);
  for (let i = 0; i < data.length; i++) data[i] = pixels[4 * i + 3];
  return { width: INK_SIDE, height: INK_SIDE, data };
}

function update() {
  const start = performance.now();
  const image = normalise(readInk());
  show(image && run(network, image));
  const time = (performance.now() - start).toFixed(1);
  find("#time").textContent = image ? `Computed and drawn in ${time} ms` : "";
}

// An example's strokes, or none, in place of what was drawn.
function replaceDrawing(example) {
  pen = null; // it may still be down
  setStrokes(example);
  isExample = example.length > 0;
  update();
  announce();
}

// However many moves the pen makes between two pictures on the screen, they are answered once.
let waiting = false;
function updateSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    update();
  });
}

function extendStroke(points) {
  const stroke = strokes.at(-1);
  stroke.push(...points);
  for (const context of [preparePaper(), inkContext]) {
    drawStroke(context, stroke, stroke.length - points.length);
  }
  find(".hint").hidden = true;
  updateSoon();
}

function listen() {
  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = paper.getBoundingClientRect();
    return [(clientX - left) / width, (clientY - top) / height];
  };
  paper.addEventListener("pointerdown", (event) => {
    if (pen !== null || event.button !== 0) return;
    event.preventDefault();
    if (isExample) replaceDrawing([]);
    pen = event.pointerId;
    paper.setPointerCapture(pen); // the stroke may leave the paper and come back
    strokes = [...strokes, []];
    extendStroke([place(event)]);
  });
  paper.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pen) return;
    const moves = event.getCoalescedEvents?.() ?? [];
    extendStroke((moves.length ? moves : [event]).map(place));
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    paper.addEventListener(end, (event) => {
      if (event.pointerId !== pen) return;
      pen = null;
      requestAnimationFrame(announce); // after the last update
    });
  }
  find("#clear").addEventListener("click", () => replaceDrawing([]));
  new ResizeObserver(() => setStrokes(strokes)).observe(paper);
  window.addEventListener("resize", () => setStrokes(strokes)); // zooming may change only sharpness
}

async function start() {
  try {
    network = await unpack(JSON.parse(find("#network").textContent), find("#weights").textContent);
  } catch (problem) {
    find("#problem").textContent =
      "This browser is too old: this page needs one from 2023 or later.";
    throw problem;
  }
  buildPage();
  // Browsers translate a function into fast code only when it has run for a while: better now than
  // under the first stroke.
  for (const example of EXAMPLES) replaceDrawing(example);
  replaceDrawing([]);
  listen();
}
start();
