// The network, from its weights to its answer: what model.py is in Python.
//
// Pictures and maps are flat arrays of numbers, row after row; the maps of a layer follow one
// another: pixel (y, x) of map c lies at (c * side + y) * side + x. The comments give shapes as
// (channels, rows, columns), and those of the usual network, with 24 and 32 filters.

"use strict";

const SIDE = 28; // pixels of MNIST's pictures, each way

// Turns the text in the page into {mean, std, temperature, layers}. A weight is a whole number of 24 bits times
// the scale of its row, which is all that leads to one output. The high bytes of all weights stand
// together, then the middle ones, then the low ones: like beside like packs best.
async function unpack(description, text) {
  const packed = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  let at = 0;
  const readFloats = (count) => new Float32Array(buffer, (at += 4 * count) - 4 * count, count);
  const layers = description.layers.map((shape) => {
    const bias = readFloats(shape.filters);
    const scale = readFloats(shape.filters);
    // Not kernel ** 2: that is no whole number to the browser, nor is any index worked out from it,
    // and the sums take three times as long.
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
  return { ...description, layers };
}

// Image (1, 28, 28), from 0 to 1 -> all that the network makes of it on the way to its answer.
function run({ mean, std, temperature, layers }, image) {
  const [conv1, conv2, fc1, fc2] = layers;
  const input = image.map((pixel) => (pixel - mean) / std);
  const maps1 = pool(convolve(input, conv1), conv1); // (1, 28, 28) -> (24, 12, 12)
  const maps2 = pool(convolve(maps1, conv2), conv2); // (24, 12, 12) -> (32, 5, 5)
  // A fully connected layer is one whose only patch is all there is.
  const hidden = multiply(maps2, fc1).map((sum) => Math.max(sum, 0)); // (800) -> (256)
  const logits = multiply(hidden, fc2); // (256) -> (10)
  const largest = Math.max(...logits); // taken off, or e to the power of it could be too large
  const powers = logits.map((logit) => Math.exp((logit - largest) / temperature));
  const total = powers.reduce((sum, power) => sum + power);
  const probabilities = powers.map((power) => power / total);
  return { image, input, maps1, maps2, hidden, logits, probabilities };
}

// A filter's sum at each of its places on the maps: (1, 28, 28) -> (24, 24, 24). First, what lies
// under a filter is written down for each place, one such patch after another.
function convolve(maps, layer) {
  const { channels, kernel, side, out, inputs } = layer;
  const patches = new Float32Array(out * out * inputs);
  let at = 0;
  for (let y = 0; y < out; y++) {
    for (let x = 0; x < out; x++) {
      for (let c = 0; c < channels; c++) {
        for (let ky = 0; ky < kernel; ky++) {
          const row = (c * side + y + ky) * side + x;
          for (let kx = 0; kx < kernel; kx++) patches[at++] = maps[row + kx];
        }
      }
    }
  }
  return multiply(patches, layer);
}

// Each filter times each patch: the products summed up, and the bias. (places, inputs) ->
// (filters, places). Nearly all of the time goes into the innermost line.
function multiply(patches, { filters, inputs, weight, bias }) {
  const places = patches.length / inputs;
  const sums = new Float32Array(filters * places);
  for (let f = 0; f < filters; f++) {
    for (let p = 0; p < places; p++) {
      const filter = f * inputs;
      const patch = p * inputs;
      let sum = bias[f];
      for (let i = 0; i < inputs; i++) sum += weight[filter + i] * patches[patch + i];
      sums[f * places + p] = sum;
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
