// The administrator's page: how the study goes, its links, and once unblinded its results.

import { AnalysisForm, counted } from "./analysis.js";
import { copyFrom } from "./copying.js";
import { drawLinkRows, showCode } from "./links.js";
import { drawResults } from "./results.js";
import { drawScenes } from "./scenes.js";
import { Refused, Server } from "./server.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);
const LOOK_MS = 5000;
const server = new Server();
const ACTIVE_S = 3600; // since a rater's last answer
let drawn = ""; // the raters in the table
let releasing = null; // the rater whose place the dialog is about
const FILES = ["answers.csv", "answers.parquet", "results.json", "table.tex", "codebook.md"];

const clock = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
const when = (seconds) => clock.format(new Date(seconds * 1000));

function cell(content, className = "") {
  const td = document.createElement("td");
  td.className = className;
  td.append(content);
  return td;
}

function drawProgress(study) {
  const { seats } = study;
  $("created").textContent = text("admin.created", { when: when(study.created) });
  $("finished").textContent = `${seats.finished} ${text("admin.finished")}`;
  $("joined").textContent = text("admin.seats", seats);
  $("answers").textContent = study.answers.toLocaleString();
  $("expected").textContent = text("admin.of", { all: study.expected.toLocaleString() });
  const paces = study.raters.map((rater) => rater.seconds).filter((pace) => pace !== null);
  paces.sort((a, b) => a - b);
  const pace = paces[Math.floor(paces.length / 2)];
  $("pace").textContent = pace === undefined ? text("admin.no_time") : `${pace.toFixed(0)} s`;
  $("flagged").textContent = seats.flagged;
  $("overall").value = study.expected ? study.answers / study.expected : 0;
  drawRaters(study.raters);
  $("plan").textContent = study.plan_digest;
  $("record").replaceChildren(...study.record.map(drawEvent));
  $("record-none").hidden = study.record.length > 0;
  const active = study.raters.filter((rater) => {
    return rater.finished === null && rater.joined !== null && Date.now() / 1000 - (rater.answered ?? rater.joined) < ACTIVE_S;
  });
  $("unblind-active").textContent = active.length ? text("admin.unblind_active", { count: active.length }) : "";
  $("confirm-label").textContent = text("admin.unblind_type", { title: study.title });
}

/** The table anew, where something changed: a button in it may have the focus. */
function drawRaters(raters) {
  const minute = Math.floor(Date.now() / 60000);
  const state = JSON.stringify([raters, minute]);
  if (state === drawn) return;
  drawn = state;
  $("raters").tBodies[0].replaceChildren(...raters.map(drawRater));
}

function drawEvent({ at, kind, detail }) {
  const line = document.createElement("li");
  const facts = Object.entries(detail).map(([name, value]) => {
    const words = name === "set" ? text(`admin.analysis_${value.replace(" ", "_")}`) : [value].flat().join(", ");
    return text(`admin.detail_${name}`, { value: words });
  });
  line.textContent = [when(at), text(`admin.event_${kind.replaceAll(" ", "_")}`), ...facts].join(" · ");
  return line;
}

/** How long ago a rater answered: who gave up is seen by it. */
function ago(seconds) {
  if (seconds === null) return "–";
  const minutes = Math.floor((Date.now() / 1000 - seconds) / 60);
  if (minutes < 1) return text("admin.ago_now");
  if (minutes < 90) return text("admin.ago_minutes", { count: minutes });
  const hours = Math.round(minutes / 60);
  if (hours < 36) return text("admin.ago_hours", { count: hours });
  return text("admin.ago_days", { count: Math.round(hours / 24) });
}

function releaseButton(rater) {
  if (rater.finished || !(rater.joined || rater.handed_out)) return "";
  const button = document.createElement("button");
  Object.assign(button, { type: "button", className: "quiet release", textContent: text("admin.release") });
  button.setAttribute("aria-label", text("admin.release_of", rater));
  button.addEventListener("click", () => {
    releasing = rater;
    $("release-heading").textContent = text("admin.release_heading", rater);
    $("release-text").textContent = text("admin.release_text", { done: rater.done, all: rater.screens });
    $("release-notice").textContent = "";
    $("release").showModal();
  });
  return button;
}

function drawRater(rater) {
  const row = document.createElement("tr");
  const bar = Object.assign(document.createElement("progress"), { max: rater.screens, value: rater.done });
  bar.setAttribute("aria-hidden", "true");
  const done = document.createElement("span");
  done.append(bar, `${rater.done} / ${rater.screens}`);
  const flags = document.createElement("span");
  for (const flag of rater.flags) {
    const words = text(`admin.flag_${flag.replace(" ", "_")}`);
    flags.append(Object.assign(document.createElement("span"), { className: "flag", textContent: words }));
  }
  const state = rater.finished
    ? "finished"
    : rater.joined
      ? "joined"
      : rater.handed_out
        ? "handed_out"
        : "free";
  row.append(
    cell(String(rater.number)),
    cell(text(`admin.state_${state}`)),
    cell(done),
    cell(rater.seconds === null ? "–" : rater.seconds.toFixed(1), "n"),
    cell(rater.coverage === null ? "–" : `${(100 * rater.coverage).toFixed(0)}%`, "n"),
    cell(rater.gold ? `${rater.gold_wrong} / ${rater.gold}` : "–", "n"),
    cell(ago(rater.answered)),
    cell(flags),
    cell(releaseButton(rater), "n"),
  );
  return row;
}

function drawLinks(links) {
  const whole = (page) => new URL(page, document.baseURI).href;
  $("open-link").value = whole(links.open);
  // the service puts its ids where its own signs stand, so they stay as they are
  $("recruiting-link").value = whole(links.open) + links.recruiting.slice(links.open.length);
  $("personal-links").value = links.personal.map(({ page }) => whole(page)).join("\n");
  const code = (address, title) => showCode(server, address, title);
  $("open-qr").onclick = () => code($("open-link").value, text("admin.open_link"));
  drawLinkRows(links.personal.map((link) => ({ ...link, address: whole(link.page) })), { when, code, days: links.link_days });
}

const analysis = new AnalysisForm(async (rule, without) => {
  await server.post("admin/api/analysis", { rule, without });
  await look();
});
let shown = ""; // the set of raters that the results are of

async function showResults(study) {
  $("blind").hidden = study.unblinded !== null;
  $("opened").hidden = study.unblinded === null;
  const set = JSON.stringify(study.analysis);
  if (study.unblinded === null || shown === set) return;
  shown = set;
  $("computing").hidden = false;
  $("unblinded-at").textContent = text("admin.unblinded_at", { when: when(study.unblinded) });
  $("downloads").replaceChildren(
    ...FILES.map((name) => {
      const link = Object.assign(document.createElement("a"), { href: `admin/download/${name}` });
      link.textContent = name;
      link.download = name;
      return link;
    }),
  );
  try {
    const report = await server.get("admin/api/results");
    drawScenes($("scenes"), report);
    $("scenes-counted").textContent = counted(report.analysis);
    await drawResults($("results"), report);
    $("computing").hidden = true;
  } catch (error) {
    $("computing").textContent = error.message;
  }
}

async function look() {
  try {
    const study = await server.get("admin/api/progress");
    drawProgress(study);
    analysis.show(study.analysis, study.raters);
    $("offline").hidden = true;
    await showResults(study);
  } catch (error) {
    if (error instanceof Refused && error.status === 401) location.reload();
    $("offline").hidden = false;
  }
}

function bind() {
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => copyFrom($(button.dataset.copy), button));
  }
  $("hand-out").addEventListener("submit", async (event) => {
    event.preventDefault();
    $("links-notice").textContent = "";
    try {
      drawLinks(await server.post("admin/api/links", { count: Number($("how-many").value) }));
      await look();
    } catch (error) {
      $("links-notice").textContent = error.message;
    }
  });
  $("cancel-release").addEventListener("click", () => $("release").close());
  $("release-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const { number, joined } = releasing;
      await server.post("admin/api/release", { number, joined });
      $("release").close();
      drawLinks(await server.get("admin/api/links"));
      await look();
    } catch (error) {
      $("release-notice").textContent = error.message;
    }
  });
  $("open-unblind").addEventListener("click", () => $("unblind").showModal());
  $("cancel-unblind").addEventListener("click", () => $("unblind").close());
  $("unblind-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await server.post("admin/api/unblind", { confirm: $("confirm").value });
      $("unblind").close();
      await look();
    } catch (error) {
      $("unblind-notice").textContent = error.message;
    }
  });
}

bind();
document.querySelector("main").inert = false; // a click before that would be lost
server.get("admin/api/links").then(drawLinks, () => ($("offline").hidden = false));
look();
setInterval(look, LOOK_MS);
