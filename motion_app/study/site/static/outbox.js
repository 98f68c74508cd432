// Answers on their way to the server. Each has an id made here, so sending it twice changes nothing;
// each lies in the browser's storage under a key of its own until the server has it, so neither a
// lost connection, a closed tab nor a second tab loses one.

import { pause } from "./clips.js";

const RETRY_MS = [1000, 2000, 4000, 8000, 15000];

export class Outbox {
  #memory = new Map(); // where storage is forbidden (private windows of some browsers)
  #flushing = null;

  /**
   * `send(answer)` resolves to {ok, refused}: refused answers are dropped, and why is told to `onRefused`.
   * `onState(state, count)`: "saved", "sending" or "waiting", with how many are not yet sent.
   */
  constructor({ owner, send, onState, onRefused }) {
    this.prefix = `study/${owner}/answer/`;
    this.send = send;
    this.onState = onState;
    this.onRefused = onRefused;
    addEventListener("online", () => this.flush());
  }

  add(answer) {
    this.#write(this.prefix + String(answer.sequence).padStart(8, "0") + "/" + answer.id, answer);
    return this.flush();
  }

  /** Answers not yet sent, oldest first. */
  pending() {
    return this.#keys().map((key) => this.#read(key)).filter(Boolean);
  }

  /** Resolves when nothing is left to send. */
  flush() {
    this.#flushing ??= this.#drain().finally(() => {
      this.#flushing = null;
    });
    return this.#flushing;
  }

  clear() {
    for (const key of this.#keys()) this.#remove(key);
  }

  async #drain() {
    for (let attempt = 0; ; ) {
      const keys = this.#keys();
      if (!keys.length) {
        this.onState("saved", 0);
        return;
      }
      this.onState(attempt ? "waiting" : "sending", keys.length);
      const answer = this.#read(keys[0]);
      const result = answer ? await this.send(answer) : { ok: true };
      if (result.ok || result.refused) {
        this.#remove(keys[0]);
        attempt = 0;
        if (result.refused) this.onRefused(answer, result.refused);
      } else {
        this.onState("waiting", keys.length);
        await Promise.race([
          pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]),
          new Promise((resolve) => addEventListener("online", resolve, { once: true })),
        ]);
        attempt += 1;
      }
    }
  }

  #keys() {
    const stored = [...this.#memory.keys()];
    try {
      stored.push(...Object.keys(localStorage));
    } catch {
      // storage is forbidden: memory has them
    }
    return stored.filter((key) => key.startsWith(this.prefix)).sort();
  }

  #write(key, answer) {
    try {
      localStorage.setItem(key, JSON.stringify(answer));
    } catch {
      this.#memory.set(key, answer);
    }
  }

  #read(key) {
    if (this.#memory.has(key)) return this.#memory.get(key);
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  }

  #remove(key) {
    this.#memory.delete(key);
    try {
      localStorage.removeItem(key);
    } catch {
      // memory had it
    }
  }
}
