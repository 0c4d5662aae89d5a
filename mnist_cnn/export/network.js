// The network, from its weights to its answer: what model.py does in Python.
//
// Pictures and maps are flat arrays of numbers, row after row; the maps of a layer follow one
// another: pixel (y, x) of map c lies at (c * side + y) * side + x. The comments give shapes as
// (channels, rows, columns), and those of the usual network, with 24 and 32 filters.

"use strict";

const SIDE = 28; // pixels of MNIST's pictures, each way

// Turns the text in the page into {mean, std, temperature, layers}. A weight is a whole number of 24
// bits times the scale of its row, which is all that leads to one output. The high bytes of all
// weights come first, then the middle ones, then the low ones: similar bytes compress best together.
async function unpack(description, text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  let at = 0;
  const readFloats = (count) => new Float32Array(buffer, (at += 4 * count) - 4 * count, count);
  const layers = description.layers.map((shape) => {
    const bias = readFloats(shape.filters);
    const scale = readFloats(shape.filters);
    // Not kernel ** 2: the browser does not treat that as a whole number, nor any index computed
    // from it, and the sums take three times as long.
    const inputs = shape.channels * shape.kernel * shape.kernel; // of one output
    return { ...shape, bias, scale, inputs, weight: new Float32Array(shape.filters * inputs) };
  });
  const bytes = new Uint8Array(buffer, at);
  const count = bytes.length / 3;
  let i = 0;
  for (const { weight, scale, inputs } of layers) {
    for (let j = 0; j < weight.length; j++, i++) {
      const [high, middle, low] = [bytes[i], bytes[count + i], bytes[2 * count + i]];
      const number = ((high << 24) | (middle << 16) | (low << 8)) >> 8; // with its sign
      weight[j] = number * scale[Math.floor(j / inputs)];
    }
  }
  // Without padding a convolution makes a picture smaller by kernel - 1; pooling halves it.
  let side = SIDE;
  for (const layer of layers.slice(0, 2)) {
    layer.side = side; // of what comes in
    layer.out = side - layer.kernel + 1; // of the sums
    layer.pooled = side = Math.floor(layer.out / 2); // of the maps
  }
  for (const layer of layers.slice(2)) layer.side = layer.out = 1; // fully connected
  return { ...description, layers };
}

// Image (1, 28, 28), from 0 to 1 -> all that the network makes of it on the way to its answer.
function run({ mean, std, temperature, layers }, image) {
  const [conv1, conv2, fc1, fc2] = layers;
  const input = image.map((pixel) => (pixel - mean) / std);
  const sums1 = convolve(input, conv1); // (1, 28, 28) -> (24, 24, 24)
  const maps1 = pool(sums1, conv1); // (24, 24, 24) -> (24, 12, 12)
  const sums2 = convolve(maps1, conv2); // (24, 12, 12) -> (32, 10, 10)
  const maps2 = pool(sums2, conv2); // (32, 10, 10) -> (32, 5, 5)
  // To a fully connected layer each number is a map of one pixel, and filters have one place.
  const hidden = convolve(maps2, fc1).map((sum) => Math.max(sum, 0)); // (800) -> (256)
  const logits = convolve(hidden, fc2); // (256) -> (10)
  const largest = Math.max(...logits); // subtracted, or e to the power of it could be too large
  const powers = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const total = powers.reduce((sum, power) => sum + power);
  const probabilities = powers.map((power) => power / total);
  return { image, input, sums1, maps1, sums2, maps2, hidden, logits, probabilities };
}

// A filter's sum at each of its places on the maps: (1, 28, 28) -> (24, 24, 24). Nearly all of the
// time goes into the innermost lines, and two things keep it short. A pixel that is 0 adds nothing,
// so for each place only the others under the filters are written down. And four filters go over
// them side by side: an addition has to wait for the one before it in the same sum, but not for
// those of the other three.
function convolve(maps, { filters, channels, kernel, side, out, inputs, weight, bias }) {
  const sums = new Float32Array(filters * out * out);
  const pixels = new Float32Array(inputs); // those under the filters that are not 0,
  const indices = new Int32Array(inputs); // and which of a filter's weights lies on each
  const last = filters - 1;
  for (let place = 0; place < out * out; place++) {
    const [top, left] = [Math.floor(place / out), place % out];
    let count = 0;
    for (let c = 0, i = 0; c < channels; c++) {
      for (let ky = 0; ky < kernel; ky++) {
        const row = (c * side + top + ky) * side + left;
        for (let kx = 0; kx < kernel; kx++, i++) {
          const pixel = maps[row + kx];
          if (pixel === 0) continue;
          pixels[count] = pixel;
          indices[count++] = i;
        }
      }
    }
    for (let f = 0; f < filters; f += 4) {
      // The next three filters; where there are fewer, the last is worked out again.
      const [g, h, k] = [Math.min(f + 1, last), Math.min(f + 2, last), Math.min(f + 3, last)];
      const [atF, atG, atH, atK] = [f * inputs, g * inputs, h * inputs, k * inputs];
      let [sumF, sumG, sumH, sumK] = [bias[f], bias[g], bias[h], bias[k]];
      for (let j = 0; j < count; j++) {
        // Not [pixel, i] = [...]: here that takes as long as the sums themselves.
        const pixel = pixels[j];
        const i = indices[j];
        sumF += weight[atF + i] * pixel;
        sumG += weight[atG + i] * pixel;
        sumH += weight[atH + i] * pixel;
        sumK += weight[atK + i] * pixel;
      }
      sums[f * out * out + place] = sumF;
      sums[g * out * out + place] = sumG;
      sums[h * out * out + place] = sumH;
      sums[k * out * out + place] = sumK;
    }
  }
  return sums;
}

// The largest of each 2x2 sums, or 0 if all are negative: (24, 24, 24) -> (24, 12, 12).
function pool(sums, { filters, out, pooled }) {
  const maps = new Float32Array(filters * pooled * pooled);
  let at = 0;
  for (let f = 0; f < filters; f++) {
    for (let y = 0; y < pooled; y++) {
      let from = (f * out + 2 * y) * out;
      for (let x = 0; x < pooled; x++, from += 2) {
        const above = Math.max(sums[from], sums[from + 1]);
        maps[at++] = Math.max(0, above, sums[from + out], sums[from + out + 1]);
      }
    }
  }
  return maps;
}
