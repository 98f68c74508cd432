// Two videos on one clock. The bar drives both; what is done to one of them is done to the other.
// They stand side by side, or B lies over A and is wiped away by a line that follows the pointer.
const root = element.closest("#compare");
const bar = element;
const DRIFT = 0.08; // s the two may be apart before the later one is moved
const clock = { playing: false, resting: false, loop: true, frame: 0 };

const videos = () => [...root.querySelectorAll("video")].filter((video) => video.readyState > 0);
const length = () => Math.max(0, ...videos().map((video) => video.duration || 0));
const time = () => Math.max(0, ...videos().map((video) => video.currentTime));
const part = (name) => bar.querySelector(`[data-part="${name}"]`);

function seek(seconds) {
  const goal = Math.min(Math.max(seconds, 0), length());
  for (const video of videos()) {
    video.currentTime = Math.min(goal, Math.max(0, video.duration - 0.01));
  }
  draw();
}

function play() {
  if (!videos().length) return;
  if (time() >= length() - 0.05) seek(0);
  clock.playing = true;
  cancelAnimationFrame(clock.frame);
  clock.frame = requestAnimationFrame(follow);
  for (const video of videos()) if (!video.ended) video.play().catch(() => {});
  draw();
}

function pause() {
  clock.playing = false;
  for (const video of videos()) video.pause();
  draw();
}

function draw() {
  const button = part("play");
  const label = clock.playing ? button.dataset.pause : button.dataset.play;
  button.setAttribute("aria-label", label);
  button.title = label;
  button.dataset.playing = clock.playing ? "yes" : "no";
  part("loop").setAttribute("aria-pressed", String(clock.loop));
  const slider = part("seek");
  slider.max = length().toFixed(3);
  slider.value = time();
  part("time").textContent = `${time().toFixed(1)} / ${length().toFixed(1)} s`;
}

// At every frame while they play.
function follow() {
  if (!root.isConnected || !clock.playing) return;
  const running = videos().filter((video) => !video.ended);
  if (running.length === 0) {
    if (clock.loop) {
      seek(0);
      play();
    } else {
      pause();
    }
  } else if (running.length === 2 && running[0].seeking === running[1].seeking) {
    const [lead, other] = running;
    if (Math.abs(lead.currentTime - other.currentTime) > DRIFT) {
      other.currentTime = lead.currentTime;
    }
  }
  draw();
  clock.frame = requestAnimationFrame(follow);
}

// Another video has come.
function arrived({ target }) {
  target.loop = false; // the clock begins both anew
  target.muted = true;
  draw();
}

function layOut(mode) {
  root.dataset.mode = mode;
  part("wipe").hidden = mode !== "wipe";
  for (const button of bar.querySelectorAll(".compare-mode")) {
    button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
  }
}

function wipe(percent) {
  part("wipe").value = Math.min(Math.max(percent, 0), 100);
  root.style.setProperty("--wipe", `${part("wipe").value}%`);
}

// The line is where the pointer is pressed and dragged on the pictures.
function wipeTo(event) {
  const box = root.querySelector("#compare-a video").getBoundingClientRect();
  wipe(100 * (event.clientX - box.left) / box.width);
}

const pair = root.querySelector(".compare-pair");
pair.addEventListener("pointerdown", (event) => {
  if (root.dataset.mode !== "wipe" || event.button !== 0) return;
  event.preventDefault();
  pair.setPointerCapture(event.pointerId);
  wipeTo(event);
}, true);
pair.addEventListener("pointermove", (event) => {
  if (pair.hasPointerCapture(event.pointerId)) wipeTo(event);
});

bar.addEventListener("click", (event) => {
  const { mode } = event.target.closest(".compare-mode")?.dataset ?? {};
  if (mode) layOut(mode);
  const name = event.target.closest("[data-part]")?.dataset.part;
  if (name === "play") (clock.playing ? pause : play)();
  if (name === "loop") clock.loop = !clock.loop;
  if (name === "back") { pause(); seek(time() - Number(bar.firstElementChild.dataset.frame)); }
  if (name === "on") { pause(); seek(time() + Number(bar.firstElementChild.dataset.frame)); }
  if (name) draw();
});

bar.addEventListener("input", (event) => {
  if (event.target === part("wipe")) wipe(Number(event.target.value));
  if (event.target !== part("seek")) return;
  const goal = Number(event.target.value); // before pausing draws the slider where it was
  pause();
  seek(goal);
});

// A press on one of the pictures plays or pauses both; where they are wiped it moves the line.
root.addEventListener("click", (event) => {
  if (event.target.tagName !== "VIDEO") return;
  event.stopPropagation();
  event.preventDefault();
  if (root.dataset.mode !== "wipe") (clock.playing ? pause : play)();
}, true);

root.addEventListener("keydown", (event) => {
  if (event.target.closest("input, textarea, select, button") && event.key === " ") return;
  if (event.key !== " ") return;
  event.preventDefault();
  (clock.playing ? pause : play)();
});

layOut("side");
wipe(50);
videos().forEach((video) => arrived({ target: video }));
draw();
root.addEventListener("loadedmetadata", arrived, true);
new IntersectionObserver(([{ isIntersecting }]) => {
  if (isIntersecting && clock.resting) play();
  else if (!isIntersecting && clock.playing) pause();
  else return;
  clock.resting = !isIntersecting; // what nobody can see need not play
}).observe(root);
root.scrollIntoView({ block: "start" });
