// Which part of the rater's page is shown, and what it says when something goes wrong.

import { pause } from "./clips.js";
import { Refused } from "./server.js";
import { text } from "./texts.js";

const $ = (id) => document.getElementById(id);
const AGAIN_MS = 4000;

export function show(screen) {
  document.body.dataset.screen = screen;
  const heading = document.querySelector(`[data-for="${screen}"] h2[tabindex]`);
  if (heading) heading.focus();
  else document.activeElement?.blur(); // so that space plays and arrows seek
  scrollTo(0, 0);
}

export function showSaved(state, count) {
  $("saved").dataset.state = state;
  const key = { saved: "saved.all", sending: "saved.sending", waiting: "saved.waiting" }[state];
  $("saved").textContent = text(key, { count });
}

export function showProblem(message) {
  $("problem-text").textContent = message;
  show("problem");
}

/** A refusal in the rater's language where it has a reason known here, else in the server's words. */
export function explain(refused) {
  const known = ["full", "identity", "begun", "place_gone", "crowded"].includes(refused.reason);
  return known ? text(`problem.${refused.reason}`) : refused.message;
}

/** The result of `call`, tried until the server answers; a refusal is not tried again. */
export async function insist(call) {
  for (;;) {
    try {
      return await call();
    } catch (error) {
      if (error instanceof Refused) throw error;
      showProblem(text("problem.offline"));
      await pause(AGAIN_MS);
    }
  }
}

/** Await `work`; what goes wrong in it is shown in words, a refusal by `onRefused`. */
export async function guard(work, onRefused = (refused) => showProblem(explain(refused))) {
  try {
    await work;
  } catch (error) {
    if (error instanceof Refused) {
      onRefused(error);
      return;
    }
    showProblem(text("problem.offline"));
    throw error;
  }
}
