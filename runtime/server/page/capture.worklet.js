/** Turns what the microphone gives into 16-bit mono at 24 kHz, in frames of 20 ms.
 *
 * Posts `{samples, level}`: a frame and its loudness from 0 to 1. Told "flush", it posts what it holds, then
 * `{flushed: true}`.
 */

import { Resampler } from "./resampler.js";

const RATE_HZ = 24000;
const FRAME_SAMPLES = 480;

class Capture extends AudioWorkletProcessor {
  #resampler = new Resampler(sampleRate, RATE_HZ);
  #frame = new Int16Array(FRAME_SAMPLES);
  #filled = 0;
  #energy = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data !== "flush") return;
      if (this.#filled > 0) this.#send(this.#frame.slice(0, this.#filled));
      this.port.postMessage({ flushed: true });
    };
  }

  process([channels]) {
    if (channels.length === 0) return true;
    for (const value of this.#resampler.push(mono(channels))) {
      const sample = Math.max(-1, Math.min(1, value));
      this.#frame[this.#filled++] = Math.round(sample * 32767);
      this.#energy += sample * sample;
      if (this.#filled === FRAME_SAMPLES) this.#send(this.#frame);
    }
    return true;
  }

  #send(samples) {
    this.port.postMessage({ samples, level: Math.sqrt(this.#energy / samples.length) });
    this.#filled = 0;
    this.#energy = 0;
  }
}

function mono(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, index) => channels.reduce((sum, channel) => sum + channel[index], 0) / channels.length);
}

registerProcessor("antiphon-capture", Capture);
