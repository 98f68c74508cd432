// Whose answers are counted: chosen here, told under every table.

import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);

/** Who is counted, in a sentence. */
export function counted(set) {
  const rule = (name) => text(`admin.analysis_${name.replace(" ", "_")}`);
  const history = set.chosen === null ? "registered" : set.blind ? "before" : "after";
  return text(`admin.counted_${history}`, {
    rule: rule(set.rule),
    registered: rule(set.registered),
    counted: set.joined - set.left_out.length,
    joined: set.joined,
    seats: set.seats,
    unfinished: set.unfinished.length,
    flagged: set.flagged.length,
    out: set.left_out.join(", ") || text("admin.counted_nobody"),
  });
}

export class AnalysisForm {
  #drawn = "";
  #set = null;

  /** `choose(rule, without)` sends a choice, and gives a promise of the set that came of it. */
  constructor(choose) {
    this.choose = choose;
    $("analysis-rule").addEventListener("change", () => {
      const byHand = $("analysis-rule").value === "by hand";
      $("analysis-raters").hidden = !byHand;
      if (!byHand) this.#send([]);
    });
    $("analysis").addEventListener("submit", (event) => {
      event.preventDefault();
      const boxes = [...$("analysis-boxes").querySelectorAll("input:not(:checked)")];
      this.#send(boxes.map((box) => Number(box.value)));
    });
  }

  async #send(without) {
    $("analysis-notice").textContent = "";
    try {
      await this.choose($("analysis-rule").value, without);
    } catch (error) {
      $("analysis-notice").textContent = error.message;
    }
  }

  /** Show what holds now; what a person is choosing meanwhile is left alone. */
  show(set, raters) {
    const joined = raters.filter((rater) => rater.joined !== null);
    const state = JSON.stringify([set, joined.map(({ number, flags, finished }) => [number, flags, finished])]);
    if (state === this.#drawn) return;
    this.#drawn = state;
    const changed = this.#set?.rule !== set.rule;
    this.#set = set;
    if (changed) {
      $("analysis-rule").value = set.rule;
      $("analysis-raters").hidden = set.rule !== "by hand";
    }
    $("analysis-told").textContent = counted(set);
    $("analysis-boxes").replaceChildren(...joined.map((rater) => this.#box(rater)));
  }

  #box({ number, flags, finished }) {
    const box = Object.assign(document.createElement("input"), { type: "checkbox", value: number });
    box.checked = !this.#set.left_out.includes(number);
    const why = flags.map((flag) => text(`admin.flag_${flag.replace(" ", "_")}`));
    if (finished === null) why.unshift(text("admin.state_joined"));
    const label = document.createElement("label");
    label.append(box, ` ${text("admin.rater")} ${number}${why.length ? ` (${why.join(", ")})` : ""}`);
    return label;
  }
}
