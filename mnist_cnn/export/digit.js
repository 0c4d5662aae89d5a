// From ink on paper to the picture that MNIST would have: what handwriting does in Python.
//
// A picture is {width, height, data}: ink from 0 to 255, row after row.

"use strict";

const BOX = 20; // the digit itself fits 20x20 (LeCun et al., 1998)
// A narrow digit gets less high: from this to that width for its height, from so many pixels to BOX.
// Otherwise many ones with a flag are taken for sevens.
const [NARROWEST, NARROW, LEAST_HIGH] = [0.45, 0.6, 18];
const FINE = 8; // strokes are measured at 8 pixels for each of MNIST's
// Widths of MNIST's strokes, in its pixels: what lies between is left alone, what is thinner or
// thicker is brought well inside.
const [THIN, THICK, THICKENED, THINNED] = [2.0, 4.4, 2.5, 4.2];

function normalise(ink) {
  const cropped = crop(ink);
  if (!cropped) return null; // a blank sheet
  return centreMass(fitBox(mendStrokes(fit(cropped, BOX * FINE))));
}

// What the ink fills, or null where there is none.
function crop({ width, height, data }) {
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (!data[i]) continue;
      if (x < left) left = x;
      if (x >= right) right = x + 1;
      if (y < top) top = y;
      bottom = y + 1;
    }
  }
  if (!bottom) return null;
  return cut({ width, height, data }, left, top, right - left, bottom - top);
}

// A part of a picture; what lies beyond its edges is paper.
function cut(picture, left, top, width, height) {
  const data = new Uint8ClampedArray(width * height);
  for (let y = Math.max(0, -top); y < Math.min(height, picture.height - top); y++) {
    for (let x = Math.max(0, -left); x < Math.min(width, picture.width - left); x++) {
      data[y * width + x] = picture.data[(y + top) * picture.width + x + left];
    }
  }
  return { width, height, data };
}

// Scales a picture so that its longer side has so many pixels.
function fit({ width, height, data }, longest) {
  const scale = longest / Math.max(width, height);
  const [wide, high] = [width, height].map((side) => Math.max(1, round(side * scale)));
  const values = averageRows(averageRows(data, width, wide), height, high);
  return { width: wide, height: high, data: Uint8ClampedArray.from(values) };
}

// Resamples each row to another length: a new pixel is the mean of what it covers of the old ones.
// The result is transposed, so that doing it twice resamples the columns too and turns it back.
function averageRows(values, length, wanted) {
  const rows = values.length / length;
  const result = new Float32Array(wanted * rows);
  const step = length / wanted;
  for (let x = 0; x < wanted; x++) {
    const [from, to] = [x * step, (x + 1) * step];
    for (let i = Math.floor(from); i < Math.min(to, length); i++) {
      const share = (Math.min(to, i + 1) - Math.max(from, i)) / step;
      for (let y = 0; y < rows; y++) result[x * rows + y] += share * values[y * length + i];
    }
  }
  return result;
}

// Makes thin strokes thicker and thick ones thinner, to widths that MNIST has.
function mendStrokes(picture) {
  const room = 2 * FINE; // to grow into, and more than `distances` needs around the ink
  const { width, height } = picture;
  const wide = cut(picture, -room, -room, width + 2 * room, height + 2 * room);
  const toPaper = distances(wide, false);
  let [total, count, deepest] = [0, 0, 0];
  for (const distance of toPaper) {
    total += distance;
    if (distance > 0) count++;
    if (distance > deepest) deepest = distance;
  }
  const stroke = (4 * total) / count; // in a bar of width w the mean distance to paper is w / 4
  if (THIN * FINE <= stroke && stroke <= THICK * FINE) return picture;
  const wanted = FINE * (stroke < THIN * FINE ? THICKENED : THINNED);
  // The box grows (or shrinks) with the strokes and is fitted again:
  // (stroke + grow) * side / (side + grow) = wanted.
  const grow = (wanted - stroke) / (1 - wanted / (BOX * FINE));
  const radius = round(Math.abs(grow) / 2);
  const toInk = grow > 0 && distances(wide, true);
  const kept = Math.min(radius, deepest - 1); // the middle of a stroke stays in any case
  const data = wide.data.map((_, i) =>
    255 * (grow > 0 ? radius + 1 - toInk[i] : toPaper[i] - kept));
  return { ...wide, data };
}

// How far each pixel is from the next one that is ink, or that is paper. Two passes, there and
// back, in which each pixel takes over what the neighbours behind it know (Borgefors, 1986).
function distances({ width, height, data }, toInk) {
  const known = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) known[i] = data[i] > 127 === toInk ? 0 : 1e6;
  const [side, corner, knight] = [1, 1.4, 2.1969]; // of steps to neighbours, as in chess
  for (const step of [1, -1]) {
    const [near, far] = [-step * width, -2 * step * width]; // one and two rows behind
    for (let n = 2 * width; n < width * (height - 2); n++) {
      const i = step > 0 ? n : width * height - 1 - n;
      if (known[i] === 0) continue;
      known[i] = Math.min(
        known[i],
        side + Math.min(known[i - step], known[i + near]),
        corner + Math.min(known[i + near - 1], known[i + near + 1]),
        knight + Math.min(known[i + far - 1], known[i + far + 1]),
        knight + Math.min(known[i + near - 2], known[i + near + 2]),
      );
    }
  }
  return known;
}

// Fits the ink into 20x20, in the middle of 28x28.
function fitBox(picture) {
  const cropped = crop(picture);
  const share = (cropped.width / cropped.height - NARROWEST) / (NARROW - NARROWEST);
  const small = fit(cropped, LEAST_HIGH + (BOX - LEAST_HIGH) * Math.min(Math.max(share, 0), 1));
  const [left, top] = [small.width, small.height].map((side) => Math.floor((SIDE - side) / 2));
  return cut(small, -left, -top, SIDE, SIDE);
}

// Rounds halves to the even number, as Python does: a digit in the middle stays where it is.
function round(value) {
  const rounded = Math.round(value);
  return rounded - value === 0.5 && rounded % 2 ? rounded - 1 : rounded;
}

// Shifts the picture by whole pixels so that its centre of mass is in the middle, and no ink is
// lost. Returns the 784 pixels from 0 to 1 that the network takes.
function centreMass(picture) {
  const { width, height, data } = picture;
  let [mass, across, down, left, top, right, bottom] = [0, 0, 0, width, height, 0, 0];
  data.forEach((ink, i) => {
    if (!ink) return;
    const [x, y] = [i % width, Math.floor(i / width)];
    mass += ink;
    across += ink * x;
    down += ink * y;
    [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
  });
  const within = (shift, first, end) => Math.min(Math.max(shift, -first), SIDE - end);
  const x = within(round(SIDE / 2 - across / mass), left, right);
  const y = within(round(SIDE / 2 - down / mass), top, bottom);
  return Float32Array.from(cut(picture, -x, -y, SIDE, SIDE).data, (ink) => ink / 255);
}
