/** Plays replies, 16-bit mono at 24 kHz, one after the other, and tells what has been played.
 *
 * Takes `{kind: "append", item, samples, at}`, where `at` is the place of the samples in the item's sound;
 * `{kind: "end", item}` after an item's last samples; and `{kind: "clear"}`, which is silence at once.
 * Posts `{kind, item, played}` with kind "started", "position", "ended" and "cleared"; `played` counts samples of the
 * item at 24 kHz, and a position has the loudness as `level`.
 */

import { Resampler } from "./resampler.js";

const RATE_HZ = 24000;
const SLICE_SAMPLES = 128; // resampled at a time: the work of each call is even, however long a piece is
const REFILL_SAMPLES = 4800; // gathered after a gap, so that one late piece makes one gap rather than many
const REPORT_S = 0.04;

class Playback extends AudioWorkletProcessor {
  #resampler = new Resampler(RATE_HZ, sampleRate);
  #pieces = []; // {item, samples, at, used}, to be played in this order
  #ended = new Set(); // items whose last samples have come
  #ready = new Float32Array(0); // resampled, not yet played
  #item = null; // what is being played
  #played = 0;
  #isRefilling = false;
  #energy = 0;
  #numSounded = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => {
      if (data.kind === "append") this.#pieces.push({ ...data, used: 0 });
      else if (data.kind === "end") this.#end(data.item);
      else this.#clear();
    };
  }

  process(_, [channels]) {
    const length = channels[0].length;
    const output = this.#next(length);
    for (const channel of channels) channel.set(output);
    for (const sample of output) this.#energy += sample * sample;
    this.#numSounded += length;
    if (this.#numSounded >= REPORT_S * sampleRate) {
      if (this.#item !== null) {
        this.#tell("position", { level: Math.sqrt(this.#energy / this.#numSounded) });
      }
      this.#numSounded = 0;
      this.#energy = 0;
    }
    return true;
  }

  #next(length) {
    while (this.#ready.length < length) {
      const piece = this.#pieces[0];
      if (this.#item !== null && piece?.item !== this.#item && this.#ended.has(this.#item)) {
        if (this.#ready.length > 0) break; // its last samples are for this call
        this.#finish();
        continue;
      }
      if (!piece || !this.#isFilled(piece)) {
        this.#isRefilling ||= this.#item !== null;
        break;
      }
      if (this.#item === null) {
        this.#item = piece.item;
        this.#played = piece.at;
        this.#tell("started");
      }
      this.#feed(piece);
    }
    const output = new Float32Array(length);
    output.set(this.#ready.subarray(0, length));
    this.#ready = this.#ready.slice(length);
    return output;
  }

  /** Whether playing may go on with a piece: after a gap, once there is enough, or all. */
  #isFilled({ item }) {
    if (this.#isRefilling) {
      const pieces = this.#pieces.filter((piece) => piece.item === item);
      const gathered = pieces.reduce((sum, piece) => sum + piece.samples.length - piece.used, 0);
      this.#isRefilling = gathered < REFILL_SAMPLES && !this.#ended.has(item);
    }
    return !this.#isRefilling && (this.#item === null || this.#item === item);
  }

  #feed(piece) {
    const slice = piece.samples.subarray(piece.used, piece.used + SLICE_SAMPLES);
    piece.used += slice.length;
    this.#played = piece.at + piece.used;
    if (piece.used === piece.samples.length) this.#pieces.shift();
    let sound = this.#resampler.push(Float32Array.from(slice, (sample) => sample / 32768));
    if (this.#ended.has(piece.item) && this.#pieces[0]?.item !== piece.item) {
      sound = joined(sound, this.#resampler.flush());
      this.#resampler = new Resampler(RATE_HZ, sampleRate);
    }
    this.#ready = joined(this.#ready, sound);
  }

  #end(item) {
    this.#ended.add(item);
    if (this.#item !== item && !this.#pieces.some((piece) => piece.item === item)) {
      this.#ended.delete(item); // it had no sound, or it was cleared
      this.port.postMessage({ kind: "ended", item, played: 0 });
    }
  }

  #finish() {
    this.#tell("ended");
    this.#ended.delete(this.#item);
    this.#item = null;
    this.#isRefilling = false;
  }

  /** Stops within one call, with a short slope in place of a click. */
  #clear() {
    if (this.#item !== null) this.#tell("cleared");
    const slope = this.#ready.slice(0, SLICE_SAMPLES);
    this.#ready = slope.map((sample, index) => sample * (1 - index / slope.length));
    this.#pieces = [];
    this.#ended.clear();
    this.#item = null;
    this.#isRefilling = false;
    this.#resampler = new Resampler(RATE_HZ, sampleRate);
    this.port.postMessage({ kind: "silent" });
  }

  #tell(kind, more = {}) {
    const waiting = Math.round((this.#ready.length * RATE_HZ) / sampleRate);
    this.port.postMessage({ kind, item: this.#item, played: Math.max(0, this.#played - waiting), ...more });
  }
}

function joined(first, second) {
  const both = new Float32Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

registerProcessor("antiphon-playback", Playback);
