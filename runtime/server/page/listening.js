/** What of the microphone goes to the server, and when. */

import { Microphone, RATE_HZ, toBase64 } from "./audio.js";

const FRAME_MS = 20;
const SHORTEST_MS = 250; // a shorter press is a tap by mistake
const LONGEST_SILENCE_MS = 10000;
const UNUSED_MS = 60000; // after this a microphone that nobody talks into is closed

export class Listening {
  isHeld = false;
  isHandsFree = true;
  #microphone;
  #sentMs = 0; // of this session's sound
  #sentAt = 0; // when its last sample was heard
  #heldMs = 0;
  #silence = null;
  #unused = null;

  /** @param {{onSound: (base64: string) => void, onLevel: (level: number) => void, onLost: () => void}} listener */
  constructor(listener) {
    this.listener = listener;
    this.#microphone = new Microphone({
      onFrame: (samples, level) => this.#heard(samples, level),
      onLost: () => {
        this.isHeld = false;
        listener.onLost();
      },
    });
  }

  get isOpen() {
    return this.#microphone.isOpen;
  }

  /** A session counts its sound from its own beginning. */
  restart() {
    this.#sentMs = 0;
    this.#endSilence();
  }

  /** When, on the clock of performance.now, a moment of the session's sound was heard. */
  timeOf(audioMs) {
    return this.#sentAt - (this.#sentMs - audioMs);
  }

  /** Raises DeviceError. */
  async open() {
    this.#endSilence();
    clearTimeout(this.#unused);
    await this.#microphone.open();
  }

  /** Listen no more. needsEnd: the user is being heard, and the server waits for silence, which is sent. */
  close(needsEnd) {
    this.#microphone.close();
    this.isHeld = false;
    clearTimeout(this.#unused);
    this.#endSilence();
    if (!needsEnd) return;
    const until = performance.now() + LONGEST_SILENCE_MS;
    const frame = new Int16Array((FRAME_MS * RATE_HZ) / 1000);
    this.#silence = setInterval(() => {
      if (performance.now() > until) this.#endSilence();
      else this.#send(frame);
    }, FRAME_MS);
  }

  /** The server has found the end of what was said. */
  ended() {
    if (!this.isOpen) this.#endSilence();
  }

  /** From now on everything is sent. */
  press() {
    clearTimeout(this.#unused);
    this.isHeld = true;
    this.#heldMs = 0;
  }

  /** Resolves to whether enough was said for a question; then all of it has been sent. */
  async release() {
    if (this.#heldMs < SHORTEST_MS) {
      this.isHeld = false;
    } else {
      await this.#microphone.flush();
    }
    const isEnough = this.isHeld;
    this.isHeld = false;
    clearTimeout(this.#unused);
    this.#unused = setTimeout(() => !this.isHandsFree && this.close(false), UNUSED_MS);
    return isEnough;
  }

  #heard(samples, level) {
    this.listener.onLevel(this.isHandsFree || this.isHeld ? level : 0);
    if (this.isHandsFree || this.isHeld) this.#send(samples);
  }

  #send(samples) {
    this.listener.onSound(toBase64(samples));
    const lengthMs = (samples.length * 1000) / RATE_HZ;
    this.#sentMs += lengthMs;
    this.#heldMs += lengthMs;
    this.#sentAt = performance.now();
  }

  #endSilence() {
    clearInterval(this.#silence);
    this.#silence = null;
  }
}
