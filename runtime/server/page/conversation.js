/** A conversation with the model: its turns, and what has to be said to the server about them. */

import { Speaker, fromBase64 } from "./audio.js";
import { Listening } from "./listening.js";
import { MICROPHONE_LOST, RESTARTED, RESUMED, closedNotice, errorNotice } from "./notices.js";
import { Session } from "./session.js";
import { Turn } from "./turns.js";

const ACKNOWLEDGED_MS = 250; // between two reports of what was played

export class Conversation {
  turns = [];
  isHearing = false; // the user is speaking
  #response = null; // {id, since}: what the server is answering with, or {id: null} once it was asked
  #stopped = new Set(); // ids of responses of which nothing more is wanted
  #since = null; // when the last question ended
  #acknowledgedAt = 0;

  /**
   * @param {{onTurn: (turn: Turn) => void, onChange: () => void, onLevel: (level: number, role: string) => void,
   *   onNotice: (text: string | null, reason?: string) => void, onAnnouncement: (text: string) => void}} listener
   */
  constructor(listener) {
    this.listener = listener;
    this.session = new Session({
      onEvent: (event) => this.#receive(event),
      onState: (state, before) => this.#stateIs(state, before),
      onClosed: (reason, detail) => this.#closed(reason, detail),
    });
    this.listening = new Listening({
      onSound: (audio) => this.session.hear(audio),
      onLevel: (level) => listener.onLevel(level, "user"),
      onLost: () => {
        this.isHearing = false;
        listener.onNotice(MICROPHONE_LOST);
        listener.onChange();
      },
    });
    this.speaker = new Speaker({
      onStarted: (item, latencyS) => this.#started(this.#turn(item), latencyS),
      onPosition: (item, heardMs, level) => this.#played(this.#turn(item), heardMs, level),
      onEnded: (item, lengthMs) => this.#ended(this.#turn(item), lengthMs),
    });
  }

  /** What is going on: "connecting", "reconnecting", "hearing", "speaking", "thinking", "listening" or "idle". */
  get phase() {
    const { state, settings } = this.session;
    if (["connecting", "reconnecting"].includes(state)) return state;
    if (this.isHearing || this.listening.isHeld) return "hearing";
    if (this.speaker.items.length > 0) return "speaking";
    if (this.#response !== null) return "thinking";
    return this.listening.isOpen && settings.isHandsFree ? "listening" : "idle";
  }

  /** Whether there is a reply to stop. */
  get isReplying() {
    return this.#response !== null || this.speaker.items.length > 0;
  }

  // What the user does

  /** Listen until told otherwise; the server finds where turns end. Raises DeviceError. */
  async listen() {
    await this.speaker.open();
    await this.listening.open();
    this.session.open();
    this.listener.onChange();
  }

  mute() {
    this.listening.close(this.isHearing && this.session.settings.isHandsFree);
    this.listener.onChange();
  }

  /** The user begins to speak. The microphone is open. */
  press() {
    this.stop();
    this.session.open();
    this.listening.press();
    this.#begin("user", null); // the server will name it
    this.listener.onChange();
  }

  /** Resolves to false if nothing was said. */
  async release() {
    const isEnough = await this.listening.release();
    if (isEnough) {
      this.session.commit();
      this.#ask();
    } else {
      this.session.clear();
      this.#remove(this.#turns("user").findLast(({ id }) => id === null));
    }
    this.listener.onChange();
    return isEnough;
  }

  /** A typed question. */
  async write(text) {
    await this.speaker.open();
    this.stop();
    const turn = this.#begin("user", this.session.write(text));
    turn.text = text;
    turn.isSettled = true;
    this.listener.onTurn(turn);
    this.#ask();
    this.listener.onChange();
  }

  /** Show the model a picture, a data URL, in place of one that no turn has begun with. */
  show(url) {
    this.session.show(url);
    this.listener.onChange();
  }

  hide() {
    this.session.hide();
    this.listener.onChange();
  }

  /** Break off the reply. */
  stop() {
    if (this.#response !== null) this.session.cancel(this.#response.id);
    this.#interrupt();
  }

  /** Forget everything. */
  renew() {
    this.session.close();
    this.#leave();
    this.#hush();
    this.turns = [];
    if (this.listening.isOpen && this.session.settings.isHandsFree) this.session.open();
    this.listener.onChange();
  }

  configure(settings) {
    const { isHandsFree: wasHandsFree } = this.session.settings;
    this.session.configure(settings);
    const { isHandsFree } = this.session.settings;
    if (wasHandsFree !== isHandsFree) {
      this.listening.isHandsFree = isHandsFree;
      this.listening.close(false);
      this.isHearing = false;
      this.session.clear();
    }
    this.listener.onChange();
  }

  // Replies

  #ask() {
    this.#since = performance.now();
    this.#response = { id: null, since: this.#since };
    this.session.ask();
  }

  #interrupt() {
    if (this.#response?.id) this.#stopped.add(this.#response.id);
    this.#response = null;
    this.#hush();
    this.listener.onChange();
  }

  /** Be silent at once, and tell the server what was heard of each reply. */
  async #hush() {
    const cut = this.#turns("assistant").filter(({ isSettled }) => !isSettled);
    for (const turn of cut) Object.assign(turn, { end: "cut", isSettled: true });
    const heard = await this.speaker.clear();
    for (const turn of cut) {
      if (heard.has(turn.id)) {
        turn.heardMs = heard.get(turn.id);
        if (!turn.isForgotten && this.turns.includes(turn)) this.session.truncate(turn.id, turn.heardMs);
      }
      this.listener.onTurn(turn);
    }
    this.listener.onChange();
  }

  #acknowledge(turn) {
    this.#acknowledgedAt = performance.now();
    if (!turn.isForgotten) this.session.acknowledge(turn.id, turn.heardMs);
  }

  // Turns

  #turns(role) {
    return this.turns.filter((turn) => turn.role === role);
  }

  #turn(id) {
    return this.turns.find((turn) => turn.id === id);
  }

  #begin(role, id) {
    const turn = new Turn(role, id);
    if (role === "user") turn.picture = this.session.takePicture();
    this.turns.push(turn);
    this.listener.onTurn(turn);
    return turn;
  }

  #remove(turn) {
    if (turn === undefined) return;
    if (turn.picture !== null) {
      turn.text = ""; // the model has seen it all the same
      turn.isSettled = true;
    } else {
      this.turns = this.turns.filter((other) => other !== turn);
    }
    this.listener.onTurn(turn);
  }

  /** The user's turn of this id; the first that the server names is the one that began when the button was pressed. */
  #userTurn(id) {
    const known = this.#turn(id);
    if (known) return known;
    const unnamed = this.#turns("user").find((turn) => turn.id === null && !turn.isSettled);
    if (unnamed) unnamed.id = id;
    return unnamed ?? this.#begin("user", id);
  }

  #replyTurn({ item_id: id, response_id: responseId }) {
    const known = this.#turn(id);
    if (known) return known;
    const turn = this.#begin("assistant", id);
    turn.responseId = responseId;
    turn.since = this.#response?.since ?? null;
    return turn;
  }

  // What is heard of replies

  #started(turn, latencyS) {
    if (!turn) return;
    if (turn.since !== null) turn.firstMs ??= performance.now() + latencyS * 1000 - turn.since;
    this.listener.onTurn(turn);
    this.listener.onChange();
  }

  #played(turn, heardMs, level) {
    this.listener.onLevel(level, "assistant");
    if (!turn) return;
    turn.heardMs = heardMs;
    this.listener.onTurn(turn);
    if (performance.now() - this.#acknowledgedAt >= ACKNOWLEDGED_MS) this.#acknowledge(turn);
  }

  #ended(turn, lengthMs) {
    this.listener.onLevel(0, "assistant");
    if (turn) {
      turn.heardMs = lengthMs;
      turn.isSettled = true;
      this.#acknowledge(turn);
      this.listener.onTurn(turn);
    }
    this.listener.onChange();
  }

  // What the server says

  #stateIs(state, before) {
    if (state === "open" && before === "reconnecting") {
      this.listener.onNotice(null);
      this.listener.onAnnouncement(RESUMED);
    } else if (state === "restarted") {
      this.#leave();
      this.#forget();
      this.#hush();
      this.listener.onNotice(RESTARTED);
    }
    this.listener.onChange();
  }

  #closed(reason, detail) {
    this.#leave();
    this.#forget();
    this.listening.close(false);
    this.listener.onNotice(closedNotice(reason, detail), reason);
    this.listener.onChange();
  }

  /** The session is gone. */
  #leave() {
    this.#response = null;
    this.isHearing = false;
    this.listening.restart();
  }

  #forget() {
    for (const turn of this.turns) {
      turn.isForgotten = true;
      if (turn.role === "user") turn.isSettled = true;
      this.listener.onTurn(turn);
    }
  }

  #receive(event) {
    if (this.#stopped.has(event.response_id)) return;
    this.#handlers[event.type]?.(event);
  }

  #handlers = {
    "session.created": () => this.listener.onNotice(null, "connected"),

    "input_audio_buffer.speech_started": ({ item_id: id }) => {
      this.isHearing = true;
      this.#interrupt(); // the server cancels the response by itself
      this.#userTurn(id);
    },

    "input_audio_buffer.speech_stopped": ({ audio_end_ms: endMs }) => {
      this.isHearing = false;
      this.#since = this.listening.timeOf(endMs);
      this.listening.ended();
      this.listener.onChange();
    },

    "input_audio_buffer.committed": ({ item_id: id }) => this.#userTurn(id),

    "conversation.item.input_audio_transcription.delta": ({ item_id: id, delta }) => {
      const turn = this.#userTurn(id);
      turn.text += delta;
      this.listener.onTurn(turn);
    },

    "conversation.item.input_audio_transcription.completed": ({ item_id: id, transcript }) => {
      const turn = this.#userTurn(id);
      turn.text = transcript.trim();
      turn.isSettled = true;
      this.listener.onTurn(turn);
      if (turn.text) this.listener.onAnnouncement(`You said: ${turn.text}`);
    },

    "conversation.item.input_audio_transcription.failed": ({ item_id: id }) => {
      const turn = this.#userTurn(id);
      turn.isSettled = true;
      this.listener.onTurn(turn);
    },

    "response.created": ({ response }) => {
      this.#response = { id: response.id, since: this.#since ?? this.#response?.since ?? null };
      this.#since = null;
      this.listener.onChange();
    },

    "response.output_audio_transcript.delta": (event) => this.#said(event),

    "response.output_text.delta": (event) => {
      const turn = this.#said(event);
      if (turn.since !== null) turn.firstMs ??= performance.now() - turn.since;
      this.listener.onTurn(turn);
    },

    "response.output_audio.delta": (event) => {
      const turn = this.#replyTurn(event);
      if (turn.end !== null) return; // it was stopped
      turn.hasSound = true;
      this.speaker.append(turn.id, fromBase64(event.delta), event.start_ms);
    },

    "antiphon.output_audio.spoken": (event) => this.#replyTurn(event).mark(event.num_chars, event.end_ms),

    "response.output_audio.done": ({ item_id: id }) => this.speaker.end(id),

    "response.done": ({ response }) => this.#done(response),

    error: ({ error }) => {
      if (this.session.isHarmless(error)) return;
      if (this.#response?.id === null) this.#response = null;
      this.listener.onNotice(errorNotice(error));
      this.listener.onChange();
    },
  };

  #said(event) {
    const turn = this.#replyTurn(event);
    if (event.type === "response.output_audio_transcript.delta") turn.hasSound = true;
    turn.text += event.delta;
    this.listener.onTurn(turn);
    return turn;
  }

  #done({ id, status, status_details: details }) {
    if (this.#response?.id === id) this.#response = null;
    const turns = this.#turns("assistant").filter((turn) => turn.responseId === id && !turn.isSettled);
    if (status === "cancelled" && turns.length > 0) this.#hush();
    for (const turn of status === "cancelled" ? [] : turns) {
      if (status !== "completed") turn.end = status === "failed" ? "failed" : "limit";
      const isSounding = this.speaker.items.includes(turn.id);
      if (isSounding) this.speaker.end(turn.id);
      else turn.isSettled = true;
      if (!turn.hasSound && turn.text) this.listener.onAnnouncement(`Reply: ${turn.text}`);
      this.listener.onTurn(turn);
    }
    if (status === "failed") this.listener.onNotice(errorNotice(details?.error));
    this.listener.onChange();
  }
}
