// Clips and pictures, fetched whole, a few at a time, and kept as long as an item needs them.
// A whole clip in memory seeks at once, so that videos side by side stay together.

const AT_ONCE = 3;
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

export class Clips {
  #entries = new Map(); // address -> {promise, url, abort}
  #waiting = [];
  #running = 0;

  /** The object URL of an address. `urgent` goes before what was asked for ahead of time. */
  get(address, { urgent = true, onRetry = () => {} } = {}) {
    const known = this.#entries.get(address);
    if (known) {
      if (urgent) this.#promote(address, onRetry);
      return known.promise;
    }
    const entry = { abort: new AbortController(), url: null, onRetry };
    entry.promise = new Promise((resolve, reject) => {
      const job = { address, entry, resolve, reject };
      if (urgent) this.#waiting.unshift(job);
      else this.#waiting.push(job);
    });
    entry.promise.catch(() => {});
    this.#entries.set(address, entry);
    this.#start();
    return entry.promise;
  }

  /** Forget everything but these addresses. */
  keep(addresses) {
    const wanted = new Set(addresses);
    for (const [address, entry] of this.#entries) {
      if (wanted.has(address)) continue;
      entry.abort.abort();
      if (entry.url) URL.revokeObjectURL(entry.url);
      this.#entries.delete(address);
    }
    this.#waiting = this.#waiting.filter((job) => wanted.has(job.address));
  }

  #promote(address, onRetry) {
    this.#entries.get(address).onRetry = onRetry;
    const place = this.#waiting.findIndex((job) => job.address === address);
    if (place > 0) this.#waiting.unshift(...this.#waiting.splice(place, 1));
  }

  #start() {
    while (this.#running < AT_ONCE && this.#waiting.length) {
      this.#running += 1;
      this.#fetch(this.#waiting.shift()).finally(() => {
        this.#running -= 1;
        this.#start();
      });
    }
  }

  async #fetch({ address, entry, resolve, reject }) {
    for (let attempt = 0; !entry.abort.signal.aborted; attempt += 1) {
      try {
        const response = await fetch(address, { signal: entry.abort.signal });
        if (!response.ok) throw new Error(`${response.status}`);
        entry.url = URL.createObjectURL(await response.blob());
        resolve(entry.url);
        return;
      } catch {
        if (entry.abort.signal.aborted) break;
        entry.onRetry();
        await pause(RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)]);
      }
    }
    reject(new DOMException("no longer needed", "AbortError"));
  }
}

export function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
