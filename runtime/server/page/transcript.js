/** Shows turns: what the user said as it is understood, and the words of replies as they are spoken. */

const ENDS = {
  cut: "stopped",
  failed: "ended by an error",
  limit: "ended at its greatest length",
};

export class Transcript {
  #shown = new Map(); // Turn -> what shows it

  /** @param {HTMLElement} list @param {HTMLElement} scroller what scrolls when the list grows */
  constructor(list, scroller) {
    this.list = list;
    this.scroller = scroller;
    let height = scroller.clientHeight;
    new ResizeObserver(() => {
      if (scroller.clientHeight < height && this.#isNearEnd(height)) scroller.scrollTop = scroller.scrollHeight;
      height = scroller.clientHeight;
    }).observe(scroller);
  }

  /** Show a turn as it is now. */
  update(turn) {
    const isNew = !this.#shown.has(turn);
    const isAtEnd = this.#isNearEnd(this.scroller.clientHeight);
    if (isNew) this.#shown.set(turn, new ShownTurn(turn));
    const shown = this.#shown.get(turn);
    if (isNew) this.list.append(shown.element);
    shown.update();
    if (isAtEnd || (isNew && turn.role === "user")) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  /** Take away the turns that are no more. */
  keep(turns) {
    for (const [turn, { element }] of this.#shown) {
      if (turns.includes(turn)) continue;
      element.remove();
      this.#shown.delete(turn);
    }
  }

  /** Whether the last words are to be seen in a window of this height. */
  #isNearEnd(height) {
    return this.scroller.scrollTop + height > this.scroller.scrollHeight - 80;
  }
}

class ShownTurn {
  #text = null;
  #words = []; // {node, from, start}: its place in the text, and the same in characters

  constructor(turn) {
    this.turn = turn;
    this.element = made("li", `turn ${turn.role}`);
    this.element.append(made("h2", "who", turn.role === "user" ? "You" : "Reply"));
    this.words = this.element.appendChild(made("p", "words"));
    this.about = this.element.appendChild(made("p", "about"));
  }

  update() {
    const { turn } = this;
    if (turn.picture !== null && !this.picture) this.#showPicture();
    this.element.classList.toggle("growing", !turn.isSettled);
    this.element.classList.toggle("forgotten", turn.isForgotten);
    this.#showWords();
    this.about.textContent = this.#about();
    this.about.hidden = this.about.textContent === "";
  }

  #showPicture() {
    this.picture = made("img", "picture");
    this.picture.src = this.turn.picture;
    this.picture.alt = "The picture that you showed";
    this.words.before(this.picture);
  }

  #showWords() {
    const { turn } = this;
    if (turn.role === "user") {
      const nothing = turn.isSettled ? (turn.picture === null ? "(nothing was understood)" : "") : "…";
      this.#setText(turn.text.trim() || nothing);
      return;
    }
    const numSpoken = turn.numSpoken;
    if (turn.isSettled && numSpoken >= turn.numChars) {
      this.#setText(turn.text.trim()); // whole again, for screen readers and for copying
      return;
    }
    if (!turn.text) {
      this.#setText(turn.isSettled ? "(no words)" : "…");
      return;
    }
    this.#split();
    const spoken = this.#words.filter(({ start }) => start < numSpoken);
    for (const [index, { node }] of this.#words.entries()) {
      node.classList.toggle("spoken", index < spoken.length);
      node.classList.toggle("now", !turn.isSettled && turn.hasSound && index === spoken.length - 1);
      node.classList.toggle("unheard", turn.isSettled && index >= spoken.length);
    }
  }

  /** One element a word; those that stand already stay. */
  #split() {
    const { text } = this.turn;
    if (text === this.#text) return;
    if (this.#text === null || !text.startsWith(this.#text)) {
      this.words.replaceChildren();
      this.#words = [];
    }
    const last = this.#words.pop(); // it may have grown
    last?.node.remove();
    const from = last?.from ?? 0;
    let start = last?.start ?? 0;
    for (const { 0: word, index } of text.slice(from).matchAll(/\s*\S+\s*|\s+$/g)) {
      const node = this.words.appendChild(made("span", "word", word));
      this.#words.push({ node, from: from + index, start });
      start += [...word].length;
    }
    this.#text = text;
  }

  #setText(text) {
    if (this.words.textContent !== text || this.words.childElementCount > 0) this.words.textContent = text;
    this.#text = null;
    this.#words = [];
  }

  #about() {
    const { turn } = this;
    const told = [];
    if (turn.firstMs !== null) {
      told.push(`first ${turn.hasSound ? "sound" : "word"} after ${(turn.firstMs / 1000).toFixed(2)} s`);
    }
    if (turn.end !== null) told.push(ENDS[turn.end]);
    return told.join(" · ");
  }
}

function made(tag, className, text = "") {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}
