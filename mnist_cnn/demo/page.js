// Gradio runs this once, with `element` (what page.html holds) and `server` (Python's functions).
// A stroke is a list of points [x, y]. All coordinates are shares of the paper's width.

const HEIGHT = 3 / 4; // of the paper, as in page.css
const PEN = 0.04; // the pen's width
const SENT_WIDTH = 376; // pixels of the drawing that is sent: 282 high, ten times the network's 28
const PHOTO_SIDE = 1024; // pixels: the longest side that preparation works on
const MAX_FILE = 50e6; // bytes

const find = (selector) => element.querySelector(selector);
const paper = find(".paper");
const sheet = find(".paper canvas");
const style = getComputedStyle(paper);
let strokes = [];
let photo = null; // a canvas, or none
let boxes = []; // of the digits found: {digit, box: [left, top, right, bottom]}

// ---- the paper

function drawStrokes(context, width) {
  context.lineWidth = PEN * width;
  context.lineCap = context.lineJoin = "round";
  for (const points of strokes) {
    const [first, ...rest] = points.map(([x, y]) => [x * width, y * width]);
    context.beginPath();
    context.moveTo(...first);
    context.lineTo(first[0] + 0.01, first[1]); // a dot: a line of no length leaves none
    // Curves through the middles between the points leave no corners.
    rest.forEach(([x, y], i) => {
      const [nextX, nextY] = rest[i + 1] || [x, y];
      context.quadraticCurveTo(x, y, (x + nextX) / 2, (y + nextY) / 2);
    });
    context.stroke();
  }
}

// Where the photo lies on the paper: as large as fits, in the middle.
function placePhoto() {
  const scale = Math.min(1 / photo.width, HEIGHT / photo.height);
  const left = (1 - photo.width * scale) / 2;
  const top = (HEIGHT - photo.height * scale) / 2;
  return { scale, left, top };
}

function drawBoxes(context, width) {
  const accent = style.getPropertyValue("--color-accent");
  context.strokeStyle = accent;
  context.lineWidth = 1.5;
  context.font = "600 12px system-ui, sans-serif";
  for (const { digit, box } of boxes) {
    const [left, top, right, bottom] = box.map((share) => share * width);
    context.strokeRect(left, top, right - left, bottom - top);
    const labelTop = top > 16 ? top - 16 : bottom;
    context.fillStyle = accent;
    context.fillRect(left - 0.75, labelTop, 13, 16);
    context.fillStyle = "white";
    context.fillText(digit, left + 2, labelTop + 12);
  }
}

function draw() {
  const width = sheet.clientWidth;
  const sharpness = window.devicePixelRatio || 1;
  sheet.width = Math.round(width * sharpness); // setting the size also wipes it
  sheet.height = Math.round(width * HEIGHT * sharpness);
  const context = sheet.getContext("2d");
  context.scale(sheet.width / width, sheet.width / width);
  if (photo) {
    const { scale, left, top } = placePhoto();
    const size = [photo.width * scale * width, photo.height * scale * width];
    context.imageSmoothingQuality = "high";
    context.drawImage(photo, left * width, top * width, ...size);
  }
  context.strokeStyle = style.getPropertyValue("--ink");
  drawStrokes(context, width);
  drawBoxes(context, width);
  const empty = !photo && !strokes.length;
  find(".hint").hidden = !empty;
  find(".undo").disabled = find(".clear").disabled = empty;
}

// ---- question and answer

// What is on the paper: {url: a PNG, scale, left, top: its pixels' place on the paper}, or null.
function takePicture() {
  if (photo) return { url: photo.toDataURL("image/png"), ...placePhoto() };
  if (!strokes.length) return null;
  const canvas = document.createElement("canvas");
  canvas.width = SENT_WIDTH;
  canvas.height = SENT_WIDTH * HEIGHT;
  const context = canvas.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, canvas.width, canvas.height);
  drawStrokes(context, canvas.width);
  return { url: canvas.toDataURL("image/png"), scale: 1 / canvas.width, left: 0, top: 0 };
}

let asking = false;
let changed = false;
let stale = false; // what was asked about is no longer on the paper, and nothing is asked yet
const NO_ANSWER = { error: "No answer came. The terminal that serves this page shows the reason." };

// One question at a time. What has changed meanwhile is asked next; outdated answers are dropped.
async function ask() {
  changed = true;
  if (asking) return;
  asking = true;
  find(".result").setAttribute("aria-busy", "true");
  while (changed) {
    changed = stale = false;
    const picture = takePicture();
    let answer = { number: "", digits: [] };
    try {
      if (picture) answer = (await server.answer(picture.url)) ?? NO_ANSWER;
    } catch {
      answer = NO_ANSWER;
    }
    if (!changed && !stale) show(answer, picture);
  }
  asking = false;
  find(".result").setAttribute("aria-busy", "false");
}

const percent = (share) => (100 * share).toFixed(1) + " %";

function comment(digits) {
  if (!digits.length) return "Nothing is drawn yet. Any pen will do: mouse, finger or stylus.";
  const least = Math.min(...digits.map((one) => one.probabilities[one.digit]));
  const sure = least > 0.9995 ? "more than 99.9 % sure" : `at least ${percent(least)} sure`;
  if (digits.length > 1) return `${digits.length} digits, each ${sure}`;
  if (least > 0.9995) return "More than 99.9 % sure";
  const { digit, probabilities, doubtful } = digits[0];
  if (!doubtful) return `${percent(least)} sure`;
  const second = Math.max(...probabilities.filter((_, i) => i !== digit));
  const other = probabilities.indexOf(second);
  return `Only ${percent(least)} sure: it could also be a ${other}`;
}

function show({ error, number = "", digits = [] }, picture) {
  find(".number").textContent = number;
  find(".comment").textContent = error || comment(digits);
  const cards = digits.length ? digits : [{ image: [], probabilities: [] }];
  const list = find(".digits");
  while (list.children.length > cards.length) list.lastElementChild.remove();
  while (list.children.length < cards.length) list.append(makeCard());
  cards.forEach((one, i) => fillCard(list.children[i], one));
  const shown = digits.length > 1 || photo ? digits : []; // one drawn digit needs no box
  boxes = shown.map(({ digit, box: [left, top, right, bottom] }) => ({
    digit,
    box: [
      picture.left + picture.scale * left,
      picture.top + picture.scale * top,
      picture.left + picture.scale * right,
      picture.top + picture.scale * bottom,
    ],
  }));
  draw();
}

function makeCard() {
  const card = find("template").content.cloneNode(true).firstElementChild;
  for (let digit = 0; digit < 10; digit++) {
    const row = document.createElement("li");
    row.innerHTML = `<span>${digit}</span><span class="bar"><span></span></span><span></span>`;
    card.querySelector("ol").append(row);
  }
  return card;
}

// image: 28 rows of 28 values, 0 to 255. probabilities: 10 numbers. Both empty: a blank card.
function fillCard(card, { digit, image, probabilities }) {
  const context = card.querySelector("canvas").getContext("2d");
  const pixels = context.createImageData(28, 28);
  image.flat().forEach((value, i) => pixels.data.set([value, value, value, 255], 4 * i));
  context.putImageData(pixels, 0, 0);
  card.querySelector("canvas").setAttribute(
    "aria-label", image.length ? `What the network sees of the ${digit}` : "Nothing to see yet");
  card.querySelectorAll("li").forEach((row, i) => {
    const share = probabilities[i];
    row.classList.toggle("likeliest", i === digit);
    row.querySelector(".bar > span").style.width = `${100 * (share || 0)}%`;
    row.lastElementChild.textContent = share === undefined ? "" : percent(share);
  });
}

// ---- pen, buttons, photos

let pen = null; // the pointer that is drawing
let opened = 0; // counts what was put on the paper: a file that takes long to decode may be late
const place = ({ clientX, clientY }) => {
  const { left, top, width } = sheet.getBoundingClientRect();
  return [(clientX - left) / width, (clientY - top) / width];
};

sheet.addEventListener("pointerdown", (event) => {
  if ((pen !== null && pen !== event.pointerId) || event.button !== 0) return;
  event.preventDefault();
  sheet.setPointerCapture(event.pointerId); // the stroke may leave the paper and come back
  if (photo) clear();
  opened++;
  pen = event.pointerId;
  strokes.push([place(event)]);
  draw();
});

sheet.addEventListener("pointermove", (event) => {
  if (event.pointerId !== pen) return;
  const moves = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(moves.length ? moves : [event]).map(place));
  draw();
});

for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
  sheet.addEventListener(end, (event) => {
    if (event.pointerId !== pen) return;
    pen = null;
    ask();
  });
}

function clear() {
  pen = null; // it may still be down
  stale = true;
  opened++;
  strokes = [];
  photo = null;
  boxes = [];
  draw();
}

function undo() {
  pen = null;
  opened++;
  if (photo) photo = null;
  else strokes.pop();
  boxes = [];
  draw();
  ask();
}

find(".undo").addEventListener("click", undo);
find(".clear").addEventListener("click", () => {
  clear();
  ask();
});
document.addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && !event.shiftKey && event.key.toLowerCase() === "z") undo();
});

// Shrinks a picture file, upright, to what preparation works on; a new picture replaces the old.
async function open(file) {
  const mine = ++opened;
  try {
    if (file.size > MAX_FILE) throw new Error("too large");
    const bitmap = await createImageBitmap(file);
    if (mine !== opened) return;
    const scale = Math.min(1, PHOTO_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    clear();
    photo = canvas;
    draw();
    ask();
  } catch {
    if (mine !== opened) return;
    stale = true; // an answer that comes late is no longer of interest
    show({ error: `${file.name} cannot be opened as a picture: try PNG or JPEG, up to 50 MB.` });
  }
}

find(".photo input").addEventListener("change", (event) => {
  if (event.target.files.length) open(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData?.files.length) open(event.clipboardData.files[0]);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  paper.classList.add("over");
});
document.addEventListener("dragleave", () => paper.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  paper.classList.remove("over");
  if (event.dataTransfer.files.length) open(event.dataTransfer.files[0]);
});

new ResizeObserver(draw).observe(paper);
window.addEventListener("resize", draw); // zooming may change only the sharpness
show({});
