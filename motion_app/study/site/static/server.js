// Calls to the server. A refusal has a sentence from the server; everything else is a lost connection.

export class Refused extends Error {
  /** `reason`: what the page has words of its own for, "" for everything else. */
  constructor(status, message, reason = "") {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

export class Server {
  constructor(token = null) {
    this.token = token;
  }

  get(path) {
    return this.#call("GET", path);
  }

  post(path, body = {}) {
    return this.#call("POST", path, body);
  }

  /** What a call draws, as a blob. */
  async picture(path, body) {
    const headers = { "Content-Type": "application/json" };
    const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body), cache: "no-store" });
    if (!response.ok) throw new TypeError(`the server answered ${response.status}`);
    return response.blob();
  }

  async #call(method, path, body) {
    const headers = this.token ? { Authorization: `Rater ${this.token}` } : {};
    if (body) headers["Content-Type"] = "application/json";
    const response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: "no-store",
      credentials: this.token ? "omit" : "same-origin", // a rater is the token alone
      keepalive: method === "POST",
    });
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    const busy = response.status === 429 && !answer?.reason; // a proxy's own: it passes
    if (response.status >= 400 && response.status < 500 && answer && !busy) {
      throw new Refused(response.status, answer.error, answer.reason);
    }
    throw new TypeError(`the server answered ${response.status}`);
  }
}
