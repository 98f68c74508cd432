// The rater's way through the study: consent, practice, items one at a time, code.

import { Clips } from "./clips.js";
import { copyFrom } from "./copying.js";
import { findVisit, hideToken, newId, takePlace, wayBack } from "./entrance.js";
import { ItemView } from "./item.js";
import { forgetRater, Memory } from "./memory.js";
import { Outbox } from "./outbox.js";
import { explain, guard, insist, show, showProblem, showSaved } from "./screens.js";
import { Refused, Server } from "./server.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);
const LANGUAGE = $("language").lang === "en" ? "zh" : "en"; // the button names the other one

class Visit {
  #items = new Map(); // number → promise of an item
  #opened = 0;
  #checked = false; // a practice item whose answers were looked at
  #leaving = false;
  #paused = new Set(); // numbers a break was offered before

  /** Either of one who has a place, by `token`, or of one who may take one: `invitation`, `session`. */
  constructor({ token, invitation, session }) {
    this.invitation = invitation;
    this.session = session;
    this.clips = new Clips();
    if (token) this.#sit(token);
  }

  #sit(token) {
    this.server = new Server(token);
    this.memory = Memory.of(token);
    this.outbox = new Outbox({
      owner: token.slice(0, 12),
      send: (answer) => this.#send(answer),
      onState: showSaved,
      onRefused: (answer, error) => this.refuse(error),
    });
  }

  async start() {
    if (this.server) await this.#refresh();
    $("study-title").textContent = this.session.title;
    $("trial").hidden = this.session.trial !== "preview";
    document.title = this.session.title;
    this.view = new ItemView({
      session: this.session,
      clips: this.clips,
      onChoice: (slot, place) => this.#choose(slot, place),
      onCoverage: (item, frames) => this.memory.set(`seen/${item.id}`, frames),
    });
    this.#bind();
    if (!this.session.consented) this.#showConsent();
    else await this.#resume();
  }

  /** What the server refuses is shown; who has lost the place may take another one. */
  refuse(error) {
    showProblem(explain(error));
    const link = error.reason === "place_gone" && wayBack(this.server.token);
    if (!link) return;
    $("again").textContent = text("problem.new_place");
    $("again").onclick = () => location.assign(link);
  }

  get total() {
    return this.session.practice + this.session.items;
  }

  async #refresh() {
    this.session = await insist(() => this.server.get(`api/session?lang=${LANGUAGE}`));
  }

  async #resume() {
    hideToken(this.server.token);
    await this.outbox.flush();
    await this.#refresh();
    if (this.session.finished || this.session.next === null) await this.#finish();
    else await this.open(this.session.next);
  }

  #showConsent() {
    const { consent, items, candidates } = this.session;
    $("consent-facts").textContent = text("consent.facts", { items, candidates });
    $("consent-text").replaceChildren(
      ...consent.split(/\n{2,}/).map((words) => {
        return Object.assign(document.createElement("p"), { textContent: words });
      }),
    );
    const { practice, minutes, contact } = this.session;
    $("consent-minutes").hidden = !minutes;
    $("consent-minutes").textContent = text("consent.minutes", { minutes });
    $("consent-contact").hidden = !contact;
    $("consent-contact").textContent = text("consent.contact", { contact });
    $("intro-practice").hidden = !practice;
    $("intro-practice").textContent = text("intro.practice", { count: practice });
    show("consent");
    // What comes first is there by the time that this is read.
    for (const address of this.session.preload) this.clips.get(address, { urgent: false });
  }

  /** Show the item of this number; waits for the connection as long as it takes. */
  async open(number) {
    this.number = number;
    this.#checked = false;
    const item = await insist(() => this.#load(number));
    if (this.number !== number) return;
    this.#opened = performance.now();
    this.#withPending(item);
    show("item");
    this.#drawPlace(item);
    this.#drawNext();
    this.clips.keep([number - 1, number, number + 1].flatMap((n) => this.#media(n)));
    const shown = this.view.show(item, this.memory.get(`seen/${item.id}`) ?? []);
    this.#drawNext();
    await shown;
    if (this.number === number) this.#prefetch(number + 1);
  }

  async #load(number) {
    if (!this.#items.has(number)) {
      const promise = this.server.get(`api/items/${number}`);
      this.#items.set(number, promise);
      promise.then(
        (item) => (promise.item = item),
        () => this.#items.delete(number),
      );
    }
    return this.#items.get(number);
  }

  async #prefetch(number) {
    if (number >= this.total) return;
    try {
      await this.#load(number);
    } catch {
      return; // asked for again when it is opened
    }
    for (const address of this.#media(number)) this.clips.get(address, { urgent: false });
  }

  #media(number) {
    const item = this.#items.get(number)?.item;
    return item ? [...item.candidates, ...item.references, item.first_frame] : [];
  }

  /** Answers that still wait to be sent count on the page. */
  #withPending(item) {
    for (const answer of this.outbox.pending()) {
      if (answer.item === item.id) item.answers[answer.question] = answer.choice;
    }
  }

  #choose(slot, place) {
    const { item } = this.view;
    const before = item.answers[slot];
    item.answers[slot] = place;
    this.#checked = false;
    const changes = this.memory.get(`changes/${item.id}/${slot}`) ?? 0;
    if (before && before !== place) this.memory.set(`changes/${item.id}/${slot}`, changes + 1);
    this.outbox.add({
      id: newId(),
      number: item.number,
      item: item.id,
      question: slot,
      choice: place,
      coverage: this.view.shares,
      sequence: this.memory.count("sequence"),
      changes: changes + (before && before !== place ? 1 : 0),
      shown_ms: Math.round(performance.now() - this.#opened),
      client_time: Date.now(),
    });
    this.#drawNext();
  }

  async #send(answer) {
    try {
      const { done } = await this.server.post("api/answers", answer);
      this.session.done = done;
      return { ok: true };
    } catch (error) {
      return error instanceof Refused ? { refused: error } : {};
    }
  }

  /** On to what comes after this item; a double click goes on once. */
  async #next() {
    if (this.#leaving || this.view.missing().length) return;
    this.#leaving = true;
    try {
      await this.#leave(this.view.item);
    } finally {
      this.#leaving = false;
    }
  }

  async #leave(item) {
    if (item.practice && !this.#checked) {
      await this.#check(item);
      return;
    }
    this.#timed(item);
    const number = item.number + 1;
    if (number >= this.total) await this.#finish();
    else if (item.practice && number === this.session.practice) this.#showReady();
    else if (this.#breakBefore(number)) this.#showBreak(number);
    else await this.open(number);
  }

  async #check(item) {
    await this.outbox.flush();
    const choices = this.view.choices();
    const { right, expected, passed } = await insist(() => {
      return this.server.post(`api/practice/${item.number}`, { choices });
    });
    show("item");
    this.view.feedback(right, expected);
    this.#checked = passed;
    this.#drawNext();
    if (passed) $("next").focus();
  }

  #showReady() {
    $("ready-text").textContent = text("ready.text", { count: this.session.items });
    this.#prefetch(this.session.practice);
    show("ready");
  }

  #breakBefore(number) {
    const { break_every: every, practice } = this.session;
    const done = number - practice;
    if (!every || done <= 0 || done % every || this.#paused.has(number)) return false;
    this.#paused.add(number);
    return true;
  }

  #showBreak(number) {
    const { items, practice } = this.session;
    $("break-text").textContent = text("break.text", { done: number - practice, count: items });
    $("after-break").onclick = () => this.#guard(this.open(number));
    show("break");
  }

  async #finish() {
    this.number = this.total;
    this.view.player.unload();
    show("done");
    await this.outbox.flush();
    const end = await insist(() => this.server.post("api/finish"));
    show("done");
    $("progress").value = 1;
    $("done-text").textContent = text(this.session.trial ? `done.${this.session.trial}_text` : "done.text");
    $("code").textContent = end.code;
    $("return").hidden = !this.memory.get("recruited");
    $("return").href = end.return_url;
    $("done-code").hidden = Boolean(end.report);
    $("report").hidden = !end.report;
    if (end.report) $("report").href = `${end.report}?lang=${LANGUAGE}`;
  }

  async #delete() {
    const { deleted } = await this.server.post("api/delete", { sure: true });
    this.view.leave(); // before forgetting: its timer would remember again
    this.outbox.clear();
    forgetRater(this.server.token);
    history.replaceState(null, "");
    $("deleted-text").textContent = text("deleted.text", { count: deleted });
    show("deleted");
  }

  #drawPlace(item) {
    const { practice, items } = this.session;
    $("place").textContent = item.practice
      ? text("item.practice", { number: item.number + 1, count: practice })
      : text("item.number", { number: item.number - practice + 1, count: items });
    $("progress").value = item.practice ? 0 : (item.number - practice) / items;
    const pace = this.memory.get("pace") ?? [];
    const median = [...pace].sort((a, b) => a - b)[Math.floor(pace.length / 2)];
    const minutes = Math.max(1, Math.round(((this.total - item.number) * median) / 60));
    $("time-left").textContent = pace.length >= 3 ? text("item.minutes_left", { minutes }) : "";
    $("back").disabled = item.number <= this.#earliest(item);
    $("announcer").textContent = $("place").textContent;
  }

  /** The first item one may go back to: the last few, and never from the study into the practice. */
  #earliest(item) {
    const reached = Math.max(this.memory.get("reached") ?? 0, item.number);
    this.memory.set("reached", reached);
    return Math.max(item.practice ? 0 : this.session.practice, reached - this.session.back);
  }

  #drawNext() {
    const { item } = this.view;
    if (!item) return;
    const missing = this.view.missing().length;
    $("next").disabled = missing > 0;
    $("missing").textContent = missing && this.view.open ? text("item.answers_missing", { count: missing }) : "";
    const last = item.number + 1 >= this.total;
    const practice = item.practice && (this.#checked ? "item.go_on" : "item.check");
    $("next").textContent = text(practice || (last ? "item.finish" : "item.next"));
  }

  /** Remember how long the last twenty items took, for the time that is left. */
  #timed(item) {
    if (item.practice) return;
    const pace = this.memory.get("pace") ?? [];
    const seconds = (performance.now() - this.#opened) / 1000;
    this.memory.set("pace", [...pace, seconds].slice(-20));
    this.memory.forget(`seen/${this.#items.get(item.number - this.session.back)?.item?.id}`);
  }

  #bind() {
    $("agree").addEventListener("change", () => ($("begin").disabled = !$("agree").checked));
    $("begin").addEventListener("click", () => this.#guard(this.#consent()));
    $("start-study").addEventListener("click", () => this.#guard(this.open(this.session.practice)));
    $("back").addEventListener("click", () => this.#guard(this.open(this.view.item.number - 1)));
    $("panel").addEventListener("submit", (event) => {
      event.preventDefault();
      if (!$("next").disabled) this.#guard(this.#next());
    });
    $("copy-code").addEventListener("click", () => copyFrom($("code"), $("copy-code")));
    $("open-delete").addEventListener("click", () => $("delete").showModal());
    $("delete").addEventListener("close", () => {
      if ($("delete").returnValue === "yes") this.#guard(this.#delete());
    });
    document.addEventListener("keydown", (event) => {
      const here = document.body.dataset.screen === "item" && !document.querySelector("dialog[open]");
      if (here && this.view.item && this.view.key(event)) event.preventDefault();
    });
  }

  async #consent() {
    if (this.invitation) {
      const { token, session } = await takePlace(this.invitation, LANGUAGE);
      this.#sit(token);
      this.session = session;
    } else {
      this.session = await insist(() => {
        return this.server.post(`api/consent?lang=${LANGUAGE}`, { agreed: true });
      });
    }
    hideToken(this.server.token);
    this.outbox.flush();
    await this.open(this.session.next ?? 0);
  }

  #guard(work) {
    return guard(work, (error) => this.refuse(error));
  }
}

async function main() {
  $("language").addEventListener("click", () => {
    const address = new URL(location.href);
    address.searchParams.set("lang", $("language").lang);
    history.replaceState(history.state, "", address); // a new page would have no state
    location.reload();
  });
  $("open-keys").addEventListener("click", () => $("keys").showModal());
  $("again").onclick = () => location.reload();
  const visit = new Visit(await findVisit(LANGUAGE));
  await guard(visit.start(), (error) => visit.refuse(error));
}

guard(main());
