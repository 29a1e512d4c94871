/** A session with the server: what is said to it, in the protocol's events. */

import { Connection } from "./connection.js";

const HARMLESS = /^(truncate|cancel|played|clear|delete)_/; // ids of events that may come too late
const FORMAT = { type: "audio/pcm", rate: 24000 };

export class Session {
  place = { model: null, key: null };
  settings = { isHandsFree: true, turnEnd: "semantic_vad", voice: "", replies: "audio" };
  picture = null; // {id, url}: shown to the model, and not yet part of a turn
  state = "closed"; // or as in Connection
  #connection = null;
  #isThere = false; // the server has begun it
  #numEvents = 0;

  /** @param {{onEvent: (event: object) => void, onState: (state: string, before: string) => void,
   *   onClosed: (reason: string, detail: string) => void}} listener as in Connection */
  constructor(listener) {
    this.listener = listener;
  }

  /** Begin, unless it has begun. */
  open() {
    this.#connection ??= new Connection(this.place, {
      onEvent: (event) => this.#receive(event),
      onState: (state) => {
        const before = this.state;
        this.state = state;
        if (state === "restarted") this.#isThere = false;
        this.listener.onState(state, before);
      },
      onClosed: (reason, detail) => {
        this.#leave();
        this.listener.onClosed(reason, detail);
      },
    });
    return this.#connection;
  }

  close() {
    this.#connection?.close();
    this.#leave();
    this.picture = null;
  }

  configure(settings) {
    const isChanged = Object.entries(settings).some(([name, value]) => this.settings[name] !== value);
    Object.assign(this.settings, settings);
    if (isChanged && this.#isThere) this.#sendSettings();
  }

  /** Some of the user's sound, in base64. */
  hear(audio) {
    this.open().send({ type: "input_audio_buffer.append", audio });
  }

  /** What was heard is a whole turn. */
  commit() {
    this.#send("input_audio_buffer.commit");
  }

  /** What was heard is none. */
  clear() {
    if (this.#isThere) this.#send("input_audio_buffer.clear");
  }

  ask() {
    this.#send("response.create");
  }

  cancel(responseId) {
    this.#send("response.cancel", responseId === null ? {} : { response_id: responseId });
  }

  /** A typed question; returns its item's id. */
  write(text) {
    return this.#create([{ type: "input_text", text }]);
  }

  show(url) {
    this.hide();
    this.picture = { id: null, url };
    if (this.#isThere) this.#sendPicture();
    else this.open();
  }

  hide() {
    if (this.picture !== null && this.#isThere) {
      this.#send("conversation.item.delete", { item_id: this.picture.id });
    }
    this.picture = null;
  }

  /** The picture, which from now on is part of a turn; null if there is none. */
  takePicture() {
    const url = this.picture?.url ?? null;
    this.picture = null;
    return url;
  }

  /** Of an item's sound, no more was heard than this. */
  truncate(itemId, heardMs) {
    if (this.#isThere) {
      this.#send("conversation.item.truncate", { item_id: itemId, content_index: 0, audio_end_ms: heardMs });
    }
  }

  /** Of an item's sound, this was heard so far. */
  acknowledge(itemId, heardMs) {
    if (this.#isThere) {
      this.#send("antiphon.output_audio.played", { item_id: itemId, audio_end_ms: heardMs });
    }
  }

  /** Whether an error is of an event that came too late, such as the end of a reply that had just ended. */
  isHarmless({ event_id: id, code }) {
    return HARMLESS.test(id ?? "") || code === "response_cancel_not_active";
  }

  #receive(event) {
    if (event.type === "session.created") {
      this.#isThere = true;
      this.#sendSettings();
      if (this.picture !== null) this.#sendPicture();
    }
    this.listener.onEvent(event);
  }

  #leave() {
    this.#connection = null;
    this.#isThere = false;
    this.state = "closed";
  }

  #send(type, fields = {}) {
    const name = type.split(".").at(-1);
    this.open().send({ type, event_id: `${name}_${++this.#numEvents}`, ...fields });
  }

  #create(content) {
    const id = `item_${[...crypto.getRandomValues(new Uint32Array(4))].map((part) => part.toString(36)).join("")}`;
    this.#send("conversation.item.create", { item: { id, type: "message", role: "user", content } });
    return id;
  }

  #sendPicture() {
    this.picture.id = this.#create([{ type: "input_image", image_url: this.picture.url }]);
  }

  #sendSettings() {
    const { isHandsFree, turnEnd, voice, replies } = this.settings;
    const detection = isHandsFree ? { type: turnEnd, create_response: true, interrupt_response: true } : null;
    const input = { format: FORMAT, transcription: { model: this.place.model }, turn_detection: detection };
    const output = voice ? { format: FORMAT, voice } : { format: FORMAT };
    const session = { type: "realtime", output_modalities: [replies], audio: { input, output }, antiphon_events: true };
    this.#send("session.update", { session });
  }
}
