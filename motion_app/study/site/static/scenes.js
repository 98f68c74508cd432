// The items of an unblinded study: whose each video is, and its votes.

import { text } from "./texts.js";

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function clip(src, label) {
  return make("video", { src, muted: true, loop: true, playsInline: true, preload: "auto", controls: true, ariaLabel: label });
}

function candidate(scene, report, k) {
  const method = report.methods[k];
  const votes = Object.entries(scene.votes).map(([question, counts]) => `${question} ${counts[k]}`);
  return make(
    "figure",
    {},
    clip(scene.candidates[k], method),
    make("figcaption", {}, make("strong", { textContent: method }), ` ${votes.join(" · ")}`),
  );
}

function drawScene(scene, report) {
  const summary = make("summary", { textContent: `${scene.name} · ${text("admin.scene_raters", { count: scene.raters })}` });
  const details = make("details", { className: "scene" }, summary);
  // Clips are asked for when somebody looks.
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const first = make("img", { src: scene.first_frame, alt: text("item.first_frame") });
    const context = [
      make("figure", {}, first, make("figcaption", { textContent: text("item.first_frame") })),
      ...scene.references.map((src, k) => {
        const name = text("item.reference", { number: k + 1 });
        return make("figure", {}, clip(src, name), make("figcaption", { textContent: name }));
      }),
    ];
    details.append(
      make("p", { textContent: scene.caption }),
      make("div", { className: "clips" }, ...context),
      make("div", { className: "clips" }, ...report.methods.map((_, k) => candidate(scene, report, k))),
    );
  });
  return details;
}

export function drawScenes(home, report) {
  home.replaceChildren(...report.scenes.map((scene) => drawScene(scene, report)));
}
