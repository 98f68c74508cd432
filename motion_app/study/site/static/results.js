// The results of an unblinded study: a table, its statistics and its figure for each question.

import { counted } from "./analysis.js";
import { text } from "./texts.js";

const percent = (share) => `${(100 * share).toFixed(1)}%`;
const chance = (p) => (p === null ? "–" : p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`);
const points = (share) => `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(1)}`;
const within = (found) => {
  return found === null ? "–" : `${found.value.toFixed(3)} (${found.low.toFixed(2)} – ${found.high.toFixed(2)})`;
};

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function table(headings, rows) {
  const head = headings.map((words, k) => make("th", { textContent: words, className: k ? "n" : "" }));
  return make(
    "div",
    { className: "scroll" },
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
  );
}

function row(cells, best = false) {
  const name = (k) => [k ? "n" : "", best ? "best" : ""].join(" ").trim();
  return make("tr", {}, ...cells.map((words, k) => make("td", { textContent: words, className: name(k) })));
}

function sharesTable(question) {
  const extra = question.scores ? "admin.score" : question.strengths ? "admin.strength" : null;
  const headings = ["admin.method", "admin.votes", "admin.share", "admin.interval"].map((key) => text(key));
  if (extra) headings.push(text(extra));
  const rows = question.shares.map((share, k) => {
    const { low, high } = share.interval;
    const interval =
      share.ceiling === null
        ? `${percent(low)} – ${percent(high)}`
        : text("admin.at_most", { share: percent(share.cautious_ceiling) });
    const cells = [share.method, `${share.votes} / ${share.total}`, `${share.percent}%`, interval];
    if (question.scores) cells.push(question.scores[k].value.toFixed(3));
    if (question.strengths) cells.push(question.strengths[k].toFixed(3));
    return row(cells, share.method === question.leader);
  });
  return table(headings, rows);
}

function facts(question) {
  const { self_agreement: self } = question;
  const found = [
    ["admin.kappa", within(question.fleiss_kappa)],
    ["admin.alpha", within(question.krippendorff_alpha)],
    ...(self ? [["admin.self_agreement", `${percent(self.value)} (${percent(self.low)} – ${percent(self.high)})`]] : []),
  ];
  const words = (key) => text(key, { count: question.repeats });
  return make(
    "dl",
    { className: "facts" },
    ...found.flatMap(([key, value]) => [make("dt", { textContent: words(key) }), make("dd", { textContent: value })]),
  );
}

function pairs(question) {
  const rows = question.differences.map(({ first, second, interval, p_holm }) => {
    const reach = `${points(interval.low)} – ${points(interval.high)}`;
    return row([`${first} – ${second}`, points(interval.value), reach, chance(p_holm)]);
  });
  const headings = ["admin.pair", "admin.difference", "admin.interval", "admin.p_holm"].map((key) => text(key));
  return make("details", {}, make("summary", { textContent: text("admin.pairs") }), table(headings, rows));
}

function plots() {
  return new Promise((resolve, reject) => {
    if (window.Plotly) resolve(window.Plotly);
    const script = make("script", { src: "admin/plots.js" });
    script.addEventListener("load", () => resolve(window.Plotly));
    script.addEventListener("error", () => reject(new Error("plots.js")));
    document.head.append(script);
  });
}

/** The figures take the page's own ink; their colours suit light and dark. */
function themed({ layout }) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink-soft").trim();
  return { ...layout, width: undefined, autosize: true, font: { ...layout.font, color: ink } };
}

/** Draw the report into `home`: figures first, then a card for each question. */
export async function drawResults(home, report) {
  const figures = Object.values(report.figures).map(({ title, figure }) => {
    const plot = make("div", { className: "plot" });
    const part = make("figure", {}, make("figcaption", { textContent: title }), plot);
    return { part, plot, figure };
  });
  const cards = report.questions.map((question) => {
    const heading = make("h3", { textContent: `${question.id} · ${question.text}` });
    const who = make("p", { className: "muted small", textContent: counted(report.analysis) });
    return make("section", { className: "question" }, heading, sharesTable(question), who, facts(question), pairs(question));
  });
  home.replaceChildren(...figures.map(({ part }) => part), ...cards);
  const plotly = await plots();
  const options = { displayModeBar: false, responsive: true };
  const draw = () => {
    for (const { plot, figure } of figures) plotly.react(plot, figure.data, themed(figure), options);
  };
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
}
