/** A WebSocket to the server that comes back after a cut and receives what it missed. */

const GRACE_MS = 30000; // how long it tries to come back
const FIRST_PAUSE_MS = 250; // between two tries; it doubles
const LONGEST_PAUSE_MS = 4000;
const REASONS = { 1000: "ended", 1008: "key", 1009: "large", 1013: "full", 3000: "key", 4401: "key" };
const RESUME_REFUSED = 4404;
const SETTLE_MS = 200; // in which a server that will not resume closes; if it does, nothing was sent in vain
const MAX_WAITING = 400; // events kept for the server while it is away; 8 s of sound

export class Connection {
  #socket = null;
  #resumeToken = null;
  #lastNumber = -1;
  #waiting = [];
  #isReady = false; // the session is there: events go out at once
  #isOver = false;
  #cutAt = null;
  #pauseMs = FIRST_PAUSE_MS;
  #timer = null;

  /**
   * @param {{model: string, key: string | null}} place
   * @param {{onEvent: (event: object) => void, onState: (state: string) => void,
   *   onClosed: (reason: string, detail: string) => void}} listener
   * States are "connecting", "open", "reconnecting", and "restarted" before a new session takes the place of one that
   * is gone. Reasons are "ended", "full", "key", "large", "lost" and "unreachable".
   */
  constructor(place, listener) {
    this.place = place;
    this.listener = listener;
    this.#dial(false);
    addEventListener("online", this.#retry);
    addEventListener("offline", this.#drop);
  }

  /** Send an event now, or when the server is there again. */
  send(event) {
    if (this.#isOver) return;
    if (this.#isReady) {
      this.#socket.send(JSON.stringify(event));
      return;
    }
    this.#waiting.push(event);
    if (this.#waiting.length > MAX_WAITING) {
      const oldest = this.#waiting.findIndex(({ type }) => type === "input_audio_buffer.append");
      this.#waiting.splice(Math.max(0, oldest), 1);
    }
  }

  close() {
    this.#end();
    this.#socket?.close(1000);
  }

  #dial(isResuming) {
    this.#isReady = false;
    const url = new URL("v1/realtime", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("model", this.place.model);
    if (isResuming) {
      url.searchParams.set("resume", this.#resumeToken);
      url.searchParams.set("after", String(this.#lastNumber));
    } else {
      this.#resumeToken = null;
      this.#lastNumber = -1;
    }
    this.listener.onState(isResuming ? "reconnecting" : "connecting");
    const protocols = ["realtime"];
    if (this.place.key) protocols.push(`openai-insecure-api-key.${this.place.key}`);
    let socket;
    try {
      socket = new WebSocket(url, protocols);
    } catch {
      this.#close("key", ""); // characters that no subprotocol may have
      return;
    }
    this.#socket = socket;
    if (isResuming) {
      socket.onopen = () => setTimeout(() => socket === this.#socket && this.#goOn(() => {}), SETTLE_MS);
    }
    socket.onmessage = ({ data }) => socket === this.#socket && this.#receive(JSON.parse(data));
    socket.onclose = ({ code, reason }) => socket === this.#socket && this.#closed(code, reason);
  }

  #receive(event) {
    if (Number.isInteger(event.sequence_number)) {
      if (event.sequence_number <= this.#lastNumber) return; // it came before the cut
      this.#lastNumber = event.sequence_number;
    }
    if (event.type !== "session.created") {
      this.#goOn(() => {});
      this.listener.onEvent(event);
      return;
    }
    this.#resumeToken = event.session.resume_token ?? "";
    this.#goOn(() => this.listener.onEvent(event));
  }

  /** The session is there: what its owner has to say first goes first, then what has been waiting. */
  #goOn(first) {
    if (this.#isReady || this.#socket.readyState !== WebSocket.OPEN) return;
    this.#isReady = true;
    this.#cutAt = null;
    this.#pauseMs = FIRST_PAUSE_MS;
    first();
    for (const event of this.#waiting.splice(0)) this.send(event);
    this.listener.onState("open");
  }

  #closed(code, reason) {
    if (this.#isOver) return;
    this.#isReady = false;
    if (code === RESUME_REFUSED) {
      this.#restart();
    } else if (REASONS[code]) {
      this.#close(REASONS[code], reason);
    } else if (this.#resumeToken === null && this.#cutAt === null) {
      this.#close("unreachable", reason);
    } else {
      this.#cutAt ??= performance.now();
      if (performance.now() - this.#cutAt > GRACE_MS) this.#close("lost", reason);
      else this.#wait();
    }
  }

  #restart() {
    this.#waiting = []; // it belongs to the session that is gone
    this.#resumeToken = null;
    this.listener.onState("restarted");
    this.#dial(false);
  }

  #wait() {
    this.listener.onState("reconnecting");
    this.#timer = setTimeout(this.#retry, this.#pauseMs);
    this.#pauseMs = Math.min(2 * this.#pauseMs, LONGEST_PAUSE_MS);
  }

  #retry = () => {
    if (this.#isOver || this.#socket.readyState !== WebSocket.CLOSED) return;
    clearTimeout(this.#timer);
    this.#dial(Boolean(this.#resumeToken));
  };

  /** The network is gone: a socket would notice only after minutes. */
  #drop = () => {
    if (this.#isOver || this.#socket.readyState !== WebSocket.OPEN) return;
    const socket = this.#socket;
    socket.onclose = null;
    socket.onmessage = null;
    socket.close();
    this.#closed(1006, "");
  };

  #close(reason, detail) {
    this.#end();
    this.listener.onClosed(reason, detail);
  }

  #end() {
    this.#isOver = true;
    this.#isReady = false;
    clearTimeout(this.#timer);
    removeEventListener("online", this.#retry);
    removeEventListener("offline", this.#drop);
  }
}
