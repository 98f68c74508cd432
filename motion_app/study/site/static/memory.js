// What the browser remembers of one rater's visit: frames seen, pace, counters. Losing it costs
// nothing but watching a video again.

export class Memory {
  #fallback = new Map(); // where storage is forbidden

  constructor(owner) {
    this.prefix = `study/${owner}/memory/`;
  }

  /** The memory of the rater with this token. */
  static of(token) {
    return new Memory(token.slice(0, 12));
  }

  get(name) {
    if (this.#fallback.has(name)) return this.#fallback.get(name);
    try {
      return JSON.parse(localStorage.getItem(this.prefix + name)) ?? undefined;
    } catch {
      return undefined;
    }
  }

  set(name, value) {
    try {
      localStorage.setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      this.#fallback.set(name, value);
    }
  }

  forget(name) {
    this.#fallback.delete(name);
    try {
      localStorage.removeItem(this.prefix + name);
    } catch {
      // the fallback had it
    }
  }

  /** 1, 2, 3 … over all tabs and reloads. */
  count(name) {
    const next = (this.get(name) ?? 0) + 1;
    this.set(name, next);
    return next;
  }
}

/** Everything kept in this browser for the rater with this token goes; other raters' things stay. */
export function forgetRater(token) {
  try {
    for (const key of Object.keys(localStorage)) {
      const mine = key.startsWith(`study/${token.slice(0, 12)}/`);
      const linked = key.startsWith("study/") && localStorage.getItem(key) === JSON.stringify(token);
      if (mine || linked) localStorage.removeItem(key);
    }
  } catch {
    // storage is forbidden: nothing was kept
  }
}
