/** What is known of one turn of a conversation. */

export class Turn {
  text = "";
  picture = null; // a data URL
  end = null; // why it ended early: "cut", "failed", "limit"
  isSettled = false; // nothing more comes
  isForgotten = false; // the model knows it no more
  firstMs = null; // from the end of the question to the first sound, or without sound to the first word
  heardMs = 0;
  #marks = [];

  /** @param {"user" | "assistant"} role @param {string | null} id the item's, once it is known */
  constructor(role, id) {
    this.role = role;
    this.id = id;
    this.hasSound = false;
    this.since = null; // when the question ended
  }

  /** As the server counts them: an emoji is one. */
  get numChars() {
    return [...this.text].length;
  }

  /** The first characters of the text have begun by a time of the sound. */
  mark(numChars, endMs) {
    this.#marks.push({ numChars, endMs });
  }

  /** All that was said of it was heard. */
  get #isWhole() {
    return this.isSettled && (this.end === null || this.end === "limit");
  }

  /** How many characters of the text have been begun in what was heard. */
  get numSpoken() {
    if (!this.hasSound) return this.numChars;
    if (this.#marks.length === 0) return this.#isWhole ? this.numChars : 0;
    let [beforeChars, beforeMs] = [0, 0];
    for (const { numChars, endMs } of this.#marks) {
      if (this.heardMs < endMs) {
        const share = Math.max(0, (this.heardMs - beforeMs) / (endMs - beforeMs));
        return Math.floor(beforeChars + share * (numChars - beforeChars));
      }
      [beforeChars, beforeMs] = [numChars, endMs];
    }
    return this.#isWhole ? this.numChars : beforeChars;
  }
}
