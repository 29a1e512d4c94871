/** Changes the sample rate of a stream of samples, piece by piece, as if it had come whole. */

const ZERO_CROSSINGS = 16; // of the sinc on each side: more are sharper, and slower
const PASSED = 0.94; // of the band below the lower rate's Nyquist frequency

export class Resampler {
  #step; // in positions of the input, as a whole and phases
  #numPhases;
  #half;
  #phases;
  #held;
  #place;
  #phase = 0;

  /** @param {number} fromHz @param {number} toHz both whole numbers */
  constructor(fromHz, toHz) {
    if (fromHz === toHz) return;
    const divisor = greatestCommonDivisor(fromHz, toHz);
    this.#numPhases = toHz / divisor;
    this.#step = fromHz / divisor;
    const cutoff = Math.min(1, toHz / fromHz) * PASSED;
    this.#half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.#phases = Array.from({ length: this.#numPhases }, (_, phase) =>
      filter(this.#half, cutoff, phase / this.#numPhases),
    );
    this.#held = new Float32Array(this.#half - 1); // silence before the first sample
    this.#place = this.#half - 1;
  }

  /** The samples at the other rate that are certain now; the last few wait for what comes next. */
  push(samples) {
    if (!this.#phases) return samples;
    const input = joined(this.#held, samples);
    const half = this.#half;
    const output = new Float32Array(
      Math.max(0, Math.ceil(((input.length - half - this.#place) * this.#numPhases - this.#phase) / this.#step)),
    );
    for (let index = 0; index < output.length; index++) {
      const taps = this.#phases[this.#phase];
      const first = this.#place - half + 1;
      let sum = 0;
      for (let tap = 0; tap < taps.length; tap++) sum += taps[tap] * input[first + tap];
      output[index] = sum;
      this.#phase += this.#step;
      this.#place += Math.floor(this.#phase / this.#numPhases);
      this.#phase %= this.#numPhases;
    }
    const used = Math.min(this.#place - half + 1, input.length);
    this.#held = input.slice(used);
    this.#place -= used;
    return output;
  }

  /** The last samples, when nothing comes next. */
  flush() {
    return this.#phases ? this.push(new Float32Array(this.#half)) : new Float32Array(0);
  }
}

/** A windowed sinc around a point `fraction` of a sample after the middle; what it lets through keeps its height. */
function filter(half, cutoff, fraction) {
  const taps = new Float32Array(2 * half);
  let sum = 0;
  for (let tap = 0; tap < taps.length; tap++) {
    const distance = tap - half + 1 - fraction;
    const angle = Math.PI * cutoff * distance;
    const window = Math.abs(distance) < half ? Math.cos((Math.PI * distance) / (2 * half)) ** 2 : 0;
    taps[tap] = (angle === 0 ? 1 : Math.sin(angle) / angle) * window;
    sum += taps[tap];
  }
  return taps.map((tap) => tap / sum);
}

function joined(first, second) {
  const both = new Float32Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

function greatestCommonDivisor(first, second) {
  return second === 0 ? first : greatestCommonDivisor(second, first % second);
}
