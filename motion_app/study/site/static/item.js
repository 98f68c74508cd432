// One item on the screen: videos, coverage, questions. Knows nothing of the server or of other items.

import { Coverage, Player } from "./player.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);
const SEEK_S = 0.5;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function metadata(video, url) {
  return new Promise((resolve, reject) => {
    video.addEventListener("loadeddata", resolve, { once: true });
    video.addEventListener("error", () => reject(video.error), { once: true });
    video.src = url;
    video.load();
  });
}

export class ItemView {
  #item = null;
  #session;
  #clips;
  #coverage = [];
  #bars = [];
  #open = false;
  #enlarged = null;
  #turn = 0;
  #telling; // the timer of onCoverage
  #tell = () => this.#coverage.length && this.onCoverage(this.#item, this.seenFrames);

  /**
   * `onChoice(question, place)` when a rater chooses, `onCoverage(item, frames)` now and then with
   * the lists of frames seen.
   */
  constructor({ session, clips, onChoice, onCoverage }) {
    this.#session = session;
    this.#clips = clips;
    this.onChoice = onChoice;
    this.onCoverage = onCoverage;
    this.player = new Player({ fps: session.fps, onTick: (...state) => this.#tick(...state) });
    this.#bindTransport();
    this.#telling = setInterval(this.#tell, 1000);
    addEventListener("pagehide", this.#tell); // a reload loses nothing of the last second
  }

  /** Nothing is shown any more, and nothing told of it. */
  leave() {
    clearInterval(this.#telling);
    removeEventListener("pagehide", this.#tell);
    this.player.unload();
  }

  get item() {
    return this.#item;
  }

  get open() {
    return this.#open;
  }

  get shares() {
    return this.#coverage.map((coverage) => Number(coverage.share.toFixed(4)));
  }

  get seenFrames() {
    return this.#coverage.map((coverage) => [...coverage.seen]);
  }

  /** The questions as they are answered: in a best–worst study each is two. */
  slots() {
    const { form, questions } = this.#session;
    if (form !== "best_worst") return questions.map(({ id }) => id);
    return questions.flatMap(({ id }) => [`${id}.best`, `${id}.worst`]);
  }

  missing() {
    return this.slots().filter((slot) => !this.choice(slot));
  }

  choice(slot) {
    const chosen = document.querySelector(`input[name="${CSS.escape(slot)}"]:checked`);
    return chosen ? Number(chosen.value) : null;
  }

  choices() {
    return Object.fromEntries(this.slots().map((slot) => [slot, this.choice(slot)]));
  }

  /** Show `item`, whose clips come as they come; `seen` are frames watched before a reload. */
  async show(item, seen = []) {
    const turn = (this.#turn += 1);
    this.player.unload();
    this.enlarge(null);
    this.#item = item;
    this.#open = false;
    this.#bars = [];
    this.#coverage = [];
    this.#drawContext(item);
    this.#drawQuestions(item);
    const videos = item.candidates.map((_, index) => this.#drawCandidate(index));
    $("candidates").replaceChildren(...videos.map(({ tile }) => tile));
    $("candidates").dataset.count = item.candidates.length;
    this.#setFetching("item.fetching");
    this.#lock();
    const references = [...$("references").querySelectorAll("video")];
    const retry = () => turn === this.#turn && this.#setFetching("item.media_failed");
    const fetched = (address) => this.#clips.get(address, { onRetry: retry });
    try {
      await Promise.all([
        fetched(item.first_frame).then((url) => ($("first-frame").firstChild.src = url)),
        ...references.map(async (v, k) => metadata(v, await fetched(item.references[k]))),
        ...videos.map(async ({ video }, k) => metadata(video, await fetched(item.candidates[k]))),
      ]);
    } catch (error) {
      if (turn !== this.#turn || error.name === "AbortError") return;
      throw error;
    }
    if (turn !== this.#turn) return;
    this.#setFetching(null);
    this.#coverage = videos.map(({ video }, index) => {
      return new Coverage(Math.round(video.duration * this.#session.fps), seen[index]);
    });
    this.player.load([
      ...videos.map(({ video }, index) => ({ video, coverage: this.#coverage[index] })),
      ...references.map((video) => ({ video, coverage: null })),
    ]);
    this.#lock();
    if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.player.play();
  }

  /** Enlarge the candidate at this place (1…N), or show all again with null or the same place. */
  enlarge(place) {
    if (place !== null && !(place >= 1 && place <= this.#item.candidates.length)) return;
    this.#enlarged = place === this.#enlarged ? null : place;
    $("candidates").dataset.enlarged = this.#enlarged ?? "";
    for (const tile of $("candidates").children) {
      const mine = Number(tile.dataset.place) === this.#enlarged;
      tile.classList.toggle("enlarged", mine);
      const button = tile.querySelector("button");
      button.setAttribute("aria-pressed", mine);
      button.title = mine
        ? text("item.shrink")
        : text("item.enlarge", { number: tile.dataset.place });
    }
  }

  /** Mark each question as right or not; `expected` names the place to choose. */
  feedback(right, expected) {
    for (const set of $("questions").querySelectorAll("fieldset[data-slot]")) {
      const { slot } = set.dataset;
      const note = set.querySelector(".note");
      set.classList.toggle("right", right[slot]);
      set.classList.toggle("wrong", !right[slot]);
      note.textContent = right[slot]
        ? text("item.right")
        : expected[slot] === null
          ? text("item.look_again_worst")
          : text("item.look_again", { number: expected[slot] });
    }
  }

  /** A key pressed on the page; true when it meant something here. */
  key(event) {
    const free = !event.target.closest("input, textarea, select, button, a, dialog, summary");
    const inRadio = event.target.matches("input[type=radio]");
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const arrow = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === " " && free) this.player.toggle();
    else if (arrow && free && event.shiftKey) this.player.step(arrow);
    else if (arrow && free) this.player.seek(this.player.time + arrow * SEEK_S);
    else if (event.key === "Home" && !event.target.matches("input[type=range]")) this.player.seek(0);
    else if (/^[1-9]$/.test(event.key) && !event.repeat) this.enlarge(Number(event.key));
    else if (event.key === "Escape" && this.#enlarged) this.enlarge(null);
    else if (event.key.toLowerCase() === "l") $("loop").click();
    else if (event.key.toLowerCase() === "f") $("full-screen").click();
    else if (event.key.toLowerCase() === "q" && this.#open) $("questions").querySelector("input").focus();
    else if (event.key === "Enter" && (free || inRadio) && !$("next").disabled) $("next").click();
    else return false;
    return true;
  }

  #setFetching(key) {
    $("fetching").hidden = !key;
    if (key) $("fetching").textContent = text(key);
    $("stage").classList.toggle("busy", Boolean(key));
  }

  #drawContext(item) {
    const clip = (label) => {
      return make("video", { muted: true, playsInline: true, preload: "auto", ariaLabel: label });
    };
    $("references").replaceChildren(
      ...item.references.map((_, index) => clip(text("item.reference", { number: index + 1 }))),
    );
    $("first-frame").replaceChildren(make("img", { alt: text("item.first_frame") }));
    $("caption").textContent = item.caption;
  }

  #drawCandidate(index) {
    const number = index + 1;
    const name = text("item.candidate", { number });
    const video = make("video", { muted: true, playsInline: true, preload: "auto", ariaLabel: name });
    video.disablePictureInPicture = true;
    const bar = make("progress", { max: 1, value: 0, ariaLabel: `${name}: ${text("item.watched")}` });
    const label = make("span", { className: "number", textContent: number });
    const tick = make("span", { className: "tick", ariaHidden: "true", textContent: "✓" });
    const title = make("span", { className: "label" }, label, ` ${name} `, tick);
    const button = make("button", { type: "button", className: "frame" }, video);
    button.setAttribute("aria-label", text("item.enlarge", { number }));
    button.addEventListener("click", () => this.enlarge(number));
    const tile = make("figure", { className: "tile" }, make("figcaption", {}, title), button, bar);
    tile.dataset.place = number;
    this.#bars[index] = { bar, tile };
    return { tile, video };
  }

  #drawQuestions(item) {
    const sets = this.#session.questions.map(({ id, text: words }, index) => {
      const legend = make("legend", {}, make("span", { className: "order", textContent: `${index + 1}.` }), ` ${words}`);
      if (this.#session.form !== "best_worst") return this.#choiceSet(item, id, legend);
      const group = make("fieldset", { className: "pair" }, legend);
      for (const end of ["best", "worst"]) {
        const inner = make("legend", { className: "end", textContent: text(`item.${end}`) });
        group.append(this.#choiceSet(item, `${id}.${end}`, inner));
      }
      return group;
    });
    $("questions").replaceChildren(...sets);
    this.#forbidSame();
  }

  #choiceSet(item, slot, legend) {
    const row = make("div", { className: "choices" });
    for (let place = 1; place <= item.candidates.length; place += 1) {
      const input = make("input", { type: "radio", name: slot, value: place });
      input.checked = item.answers[slot] === place;
      input.setAttribute("aria-label", text("item.choice", { number: place }));
      input.addEventListener("change", () => {
        this.#forbidSame();
        this.onChoice(slot, place);
      });
      row.append(make("label", {}, input, make("span", { ariaHidden: "true", textContent: place })));
    }
    const note = make("p", { className: "note" });
    note.setAttribute("role", "status");
    const set = make("fieldset", {}, legend, row, note);
    set.dataset.slot = slot;
    return set;
  }

  /** Best and worst of one question are two candidates. */
  #forbidSame() {
    if (this.#session.form !== "best_worst") return;
    for (const { id } of this.#session.questions) {
      for (const [end, other] of [["best", "worst"], ["worst", "best"]]) {
        const taken = this.choice(`${id}.${other}`);
        for (const input of document.querySelectorAll(`input[name="${CSS.escape(`${id}.${end}`)}"]`)) {
          input.disabled = Number(input.value) === taken;
        }
      }
    }
  }

  #lock() {
    const need = this.#session.coverage;
    const watched = this.#coverage.filter((coverage) => coverage.share >= need).length;
    const all = this.#item.candidates.length;
    const open = this.#coverage.length === all && watched === all;
    const words = text("item.watched_count", { count: watched, all });
    $("lock").textContent = open ? text("item.open") : `${text("item.locked")} ${words}`;
    $("panel").classList.toggle("locked", !open);
    $("questions").inert = !open;
    if (open && !this.#open) $("announcer").textContent = text("item.open");
    this.#open = open;
  }

  #tick(time, duration, playing) {
    if (!this.#item) return;
    if (document.activeElement !== $("seek") || playing) $("seek").value = duration ? (1000 * time) / duration : 0;
    $("clock").textContent = `${time.toFixed(1)} / ${duration.toFixed(1)} s`;
    $("play").classList.toggle("playing", playing);
    const label = text(playing ? "transport.pause" : "transport.play");
    if ($("play").title !== label) {
      $("play").title = label;
      $("play").setAttribute("aria-label", label);
    }
    let changed = false;
    this.#coverage.forEach((coverage, index) => {
      const { bar, tile } = this.#bars[index];
      changed ||= bar.value !== coverage.share;
      bar.value = coverage.share;
      tile.classList.toggle("watched", coverage.share >= this.#session.coverage);
    });
    if (changed) this.#lock();
  }

  #bindTransport() {
    $("play").addEventListener("click", () => this.player.toggle());
    $("restart").addEventListener("click", () => this.player.seek(0));
    $("seek").addEventListener("input", () => {
      this.player.seek(($("seek").value / 1000) * this.player.duration);
    });
    $("loop").addEventListener("click", () => {
      this.player.loop = !this.player.loop;
      $("loop").setAttribute("aria-pressed", this.player.loop);
    });
    $("full-screen").addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else $("stage").requestFullscreen().catch(() => {});
    });
  }
}
