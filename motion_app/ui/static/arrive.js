// A video plays by itself where nobody asked for less motion. One that was waited for comes into
// view too, unless a person is busy elsewhere: types, or has a dialog open.
let arrived = "";

function playNow() {
  const video = document.querySelector("#video video");
  if (!video) return false;
  video.muted = true; // it has no sound; unmuted videos may not begin by themselves
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (still) video.pause();
  else video.play().catch(() => {});
  return true;
}

function busyElsewhere() {
  const field = document.activeElement;
  return document.querySelector("dialog[open]") !== null
    || field?.matches("textarea, input:not([type=range], [type=radio], [type=checkbox])");
}

function arrive(tries = 20) {
  if (!playNow()) {
    if (tries > 0) setTimeout(() => arrive(tries - 1), 100); // the player is being built
    return;
  }
  const job = element.querySelector(".facts")?.dataset.arrived ?? "";
  if (!job || job === arrived || busyElsewhere()) return;
  arrived = job;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.querySelector("#result")
    ?.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}

document.addEventListener("loadeddata", ({ target }) => {
  if (target.closest("#video")) playNow(); // the player has been built anew
}, true);
watch("value", () => arrive());
arrive();
