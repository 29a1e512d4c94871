/** The microphone and the loudspeaker, both 16-bit mono at 24 kHz for their users. */

export const RATE_HZ = 24000;
const RESUMED_MS = 1000;
const SILENT_MS = 300; // what a worklet that the browser has stopped in the background is waited for

let context = null;

/** The one audio context. Call it from a click or a key first: browsers let no page make sound before. */
async function audioContext() {
  if (context === null) {
    context = new AudioContext({ latencyHint: "interactive" });
    const module = (name) => context.audioWorklet.addModule(new URL(name, import.meta.url));
    context.loaded = Promise.all([module("capture.worklet.js"), module("playback.worklet.js")]);
  }
  const resumed = context.state === "running" ? null : context.resume(); // which may wait for another click
  await Promise.all([Promise.race([resumed, new Promise((resolve) => setTimeout(resolve, RESUMED_MS))]), context.loaded]);
  return context;
}

/** Why there is no microphone or camera; `reason` is "insecure", "denied", "missing", "busy" or "other". */
export class DeviceError extends Error {
  constructor(reason, cause) {
    super(reason, { cause });
    this.reason = reason;
  }
}

const REASONS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "missing",
  OverconstrainedError: "missing",
  NotReadableError: "busy",
  AbortError: "busy",
};

export class Microphone {
  #stream = null;
  #nodes = [];
  #flushed = [];

  /** @param {{onFrame: (samples: Int16Array, level: number) => void, onLost: () => void}} listener */
  constructor(listener) {
    this.listener = listener;
  }

  get isOpen() {
    return this.#stream !== null;
  }

  /** Begin to listen. Raises DeviceError. */
  async open() {
    if (this.isOpen) return;
    if (!navigator.mediaDevices?.getUserMedia) throw new DeviceError("insecure");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({
        audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
      });
    } catch (error) {
      throw new DeviceError(REASONS[error.name] ?? "other", error);
    }
    try {
      const { source, worklet, sink } = await this.#connect(stream);
      this.#nodes = [source, worklet, sink];
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw new DeviceError("other", error);
    }
    this.#stream = stream;
    for (const track of stream.getTracks()) track.onended = () => this.#lose();
  }

  async #connect(stream) {
    const audio = await audioContext();
    const source = audio.createMediaStreamSource(stream);
    const worklet = new AudioWorkletNode(audio, "antiphon-capture");
    const sink = new GainNode(audio, { gain: 0 }); // some browsers run only what leads to the loudspeaker
    worklet.port.onmessage = ({ data }) => {
      if (data.flushed) this.#flushed.shift()?.();
      else if (this.isOpen) this.listener.onFrame(data.samples, data.level);
    };
    source.connect(worklet).connect(sink).connect(audio.destination);
    return { source, worklet, sink };
  }

  /** Resolves once all that has been heard so far was given to the listener. */
  flush() {
    if (!this.isOpen) return Promise.resolve();
    return new Promise((resolve) => {
      this.#flushed.push(resolve);
      this.#nodes[1].port.postMessage("flush");
    });
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    for (const node of this.#nodes) node.disconnect();
    for (const resolve of this.#flushed) resolve();
    this.#stream = null;
    this.#nodes = [];
    this.#flushed = [];
  }

  #lose() {
    if (!this.isOpen) return;
    this.close();
    this.listener.onLost();
  }
}

export class Speaker {
  #worklet = null;
  #audio = null;
  #sounding = new Map(); // item -> {numSamples that have come, played}
  #silenced = [];

  /** @param {{onStarted: Function, onPosition: Function, onEnded: Function}} listener called with the item and the
   * time in its sound, in milliseconds; onPosition with the loudness, too, and onStarted with the time in seconds that
   * the sound takes to the ear. */
  constructor(listener) {
    this.listener = listener;
  }

  /** Make ready to play; from a click or a key. */
  async open() {
    const audio = await audioContext();
    if (this.#worklet !== null) return;
    this.#audio = audio;
    this.#worklet = new AudioWorkletNode(audio, "antiphon-playback", { numberOfInputs: 0, outputChannelCount: [1] });
    this.#worklet.port.onmessage = ({ data }) => this.#told(data);
    this.#worklet.connect(audio.destination);
  }

  /** Items that are played or wait to be. */
  get items() {
    return [...this.#sounding.keys()];
  }

  /** Play more of an item. startMs: the place of these samples in its sound, if it is known. */
  append(item, samples, startMs) {
    if (this.#worklet === null) return;
    const state = this.#sounding.get(item) ?? { numSamples: 0, played: 0 };
    this.#sounding.set(item, state);
    const at = startMs === undefined ? state.numSamples : Math.round((startMs * RATE_HZ) / 1000);
    state.numSamples = at + samples.length;
    this.#worklet.port.postMessage({ kind: "append", item, samples, at }, [samples.buffer]);
  }

  /** Nothing more comes of an item. */
  end(item) {
    if (this.#sounding.has(item)) this.#worklet.port.postMessage({ kind: "end", item });
  }

  /** Be silent at once. Resolves to what had been heard of each item that had not ended, in milliseconds. */
  clear() {
    if (this.#sounding.size === 0) return Promise.resolve(new Map());
    const cut = new Map(this.#sounding);
    this.#sounding.clear();
    return new Promise((resolve) => {
      const silent = { finish: () => resolve(new Map([...cut].map(([item, { played }]) => [item, this.#heardMs(played)]))), cut };
      this.#silenced.push(silent);
      this.#worklet.port.postMessage({ kind: "clear" });
      setTimeout(silent.finish, SILENT_MS);
    });
  }

  /** What has left the worklet is not yet at the ear. */
  get #latencyS() {
    return this.#audio.outputLatency || this.#audio.baseLatency || 0;
  }

  #heardMs(played) {
    return Math.max(0, Math.floor((played / RATE_HZ - this.#latencyS) * 1000));
  }

  #told({ kind, item, played, level }) {
    if (kind === "silent") {
      this.#silenced.shift().finish();
      return;
    }
    const state = kind === "cleared" ? this.#silenced[0]?.cut.get(item) : this.#sounding.get(item);
    if (state === undefined) return; // from before it was cleared
    state.played = played;
    if (kind === "started") this.listener.onStarted(item, this.#latencyS);
    else if (kind === "position") this.listener.onPosition(item, this.#heardMs(played), level);
    else if (kind === "ended") {
      this.#sounding.delete(item);
      this.listener.onEnded(item, Math.floor((state.numSamples / RATE_HZ) * 1000));
    }
  }
}

/** Samples as the protocol carries them. */
export function toBase64(samples) {
  const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
  let text = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(text);
}

export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}
