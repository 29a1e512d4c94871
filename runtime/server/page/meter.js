/** Loudness of the last seconds, as a row of bars. */

const NUM_BARS = 40;
const STEP_MS = 60;
const QUIET_DB = -55;
const LOUD_DB = -12;

export class Meter {
  #levels = new Array(NUM_BARS).fill(0);
  #loudest = 0;
  #steppedAt = 0;

  /** @param {HTMLElement} element of role "meter" */
  constructor(element) {
    this.element = element;
    this.bars = this.#levels.map(() => element.appendChild(document.createElement("i")));
  }

  /** @param {number} level from 0 to 1 @param {string} role whose voice it is */
  push(level, role) {
    this.#loudest = Math.max(this.#loudest, height(level));
    const now = performance.now();
    if (now - this.#steppedAt < STEP_MS) return;
    this.#steppedAt = now;
    this.#levels.shift();
    this.#levels.push(this.#loudest);
    this.#show(role);
    this.#loudest = 0;
  }

  clear() {
    this.#levels.fill(0);
    this.#show("");
  }

  #show(role) {
    this.element.dataset.role = role;
    this.element.ariaValueNow = String(Math.round(this.#levels.at(-1) * 100));
    for (const [index, bar] of this.bars.entries()) {
      bar.style.transform = `scaleY(${Math.max(0.06, this.#levels[index]).toFixed(3)})`;
    }
  }
}

function height(level) {
  const decibels = 20 * Math.log10(level + 1e-9);
  return Math.min(1, Math.max(0, (decibels - QUIET_DB) / (LOUD_DB - QUIET_DB)));
}
