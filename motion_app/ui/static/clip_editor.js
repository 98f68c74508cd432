// Reference clips: the server draws one sheet of frames for each; this plays it between the two trim
// handles, and turns drags and clicks on it into a crop box and a point, as shares of the picture.
//
// ``tell`` has ``choose`` and ``remove``, each called with a clip's node and, the first, with what is
// chosen now and whether it was a point on the mover that changed.
function clipEditor(root, tell) {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const shown = new Map(); // key → { frame, playing, tool, box, mover, told }

  function wordsOf(card) {
    return JSON.parse(card.closest(".clips").dataset.words);
  }

  function within(value, low, high) {
    return Math.min(Math.max(value, low), high);
  }

  function rounded(value) {
    return Math.round(value * 1e4) / 1e4;
  }

  function stateOf(card) {
    const key = card.dataset.key;
    if (!shown.has(key)) {
      const known = JSON.parse(card.dataset.known);
      shown.set(key, { frame: 0, playing: !still, tool: "crop", box: known.box, mover: known.mover });
    }
    return shown.get(key);
  }

  function span(card) {
    return [".clip-start", ".clip-stop"].map((name) => Number(card.querySelector(name).value));
  }

  function drawFrame(card) {
    const state = stateOf(card);
    const columns = Number(card.dataset.columns);
    const rows = Math.ceil(Number(card.dataset.count) / columns);
    const stage = card.querySelector(".clip-stage");
    const [column, row] = [state.frame % columns, Math.floor(state.frame / columns)];
    stage.style.backgroundSize = `${columns * 100}% ${rows * 100}%`;
    stage.style.backgroundPosition =
      `${(100 * column) / (columns - 1)}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
  }

  function draw(card) {
    const state = stateOf(card);
    const [start, stop] = span(card);
    const [count, fps] = [Number(card.dataset.count), Number(card.dataset.fps)];
    const told = wordsOf(card);
    const chosen = card.querySelector(".clip-chosen");
    chosen.style.left = `${(100 * start) / count}%`;
    chosen.style.right = `${100 - (100 * stop) / count}%`;
    const least = Number(card.closest(".clips").dataset.least);
    const facts = card.querySelector(".clip-facts");
    facts.textContent = told.span
      .replace("{start}", (start / fps).toFixed(1))
      .replace("{stop}", (stop / fps).toFixed(1))
      .replace("{n}", stop - start);
    facts.classList.toggle("warning", stop - start < least);
    if (stop - start < least) facts.textContent += " " + told.too_short.replace("{n}", least);
    const play = card.querySelector(".clip-play");
    play.textContent = state.playing ? "❚❚" : "▶";
    play.setAttribute("aria-label", state.playing ? told.pause : told.play);
    for (const tool of card.querySelectorAll("button[data-tool]")) {
      tool.setAttribute("aria-pressed", String(tool.dataset.tool === state.tool));
    }
    const clear = card.querySelector(".clip-clear");
    clear.hidden = !state[state.tool === "crop" ? "box" : "mover"];
    clear.textContent = state.tool === "crop" ? told.whole : told.nobody;
    card.querySelector(".clip-stage").dataset.tool = state.tool;
    drawMarks(card, state);
    drawFrame(card);
    if (state.playing) goOn(card);
  }

  function drawMarks(card, state) {
    const box = card.querySelector(".clip-box");
    box.style.display = state.box ? "block" : "none";
    if (state.box) {
      const [x0, y0, x1, y1] = state.box.map((share) => 100 * share);
      Object.assign(box.style, {
        left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%`,
      });
    }
    drawCut(card, state.box || [0, 0, 1, 1]);
    const mover = card.querySelector(".clip-mover");
    mover.style.display = state.mover ? "block" : "none";
    if (state.mover) {
      Object.assign(mover.style, {
        left: `${100 * state.mover[0]}%`, top: `${100 * state.mover[1]}%`,
      });
    }
    const numbers = [...(state.box || [0, 0, 1, 1]), ...(state.mover || ["", ""])];
    for (const input of card.querySelectorAll("[data-number]")) {
      if (document.activeElement === input) continue;
      const share = numbers[Number(input.dataset.number)];
      input.value = share === "" ? "" : Math.round(100 * share);
    }
  }

  // Learning sees the middle of what is chosen, in the shape of the model's frame.
  function drawCut(card, [x0, y0, x1, y1]) {
    const stage = card.querySelector(".clip-stage");
    const [width, height] = ["--width", "--height"].map((name) => Number(stage.style.getPropertyValue(name)));
    const shape = Number(card.closest(".clips").dataset.shape) * (height / width); // in shares
    const [wide, high] = [x1 - x0, y1 - y0];
    const seen = [Math.min(wide, high * shape), Math.min(high, wide / shape)];
    const cut = card.querySelector(".clip-cut");
    const whole = seen[0] > 0.98 * wide && seen[1] > 0.98 * high;
    cut.style.display = whole ? "none" : "block";
    Object.assign(cut.style, {
      left: `${100 * (x0 + (wide - seen[0]) / 2)}%`, top: `${100 * (y0 + (high - seen[1]) / 2)}%`,
      width: `${100 * seen[0]}%`, height: `${100 * seen[1]}%`,
    });
  }

  function report(card, pointed = false) {
    const state = stateOf(card);
    const [start, stop] = span(card);
    const fps = Number(card.dataset.fps);
    tell.choose(card, {
      key: card.dataset.key,
      start: start / fps,
      stop: stop / fps,
      box: state.box,
      mover: state.mover,
    }, pointed);
  }

  function keepInside(state) {
    if (!state.box || !state.mover) return;
    const [x0, y0, x1, y1] = state.box;
    const [x, y] = state.mover;
    if (x < x0 || x >= x1 || y < y0 || y >= y1) state.mover = null;
  }

  function share(event, stage) {
    const box = stage.getBoundingClientRect();
    return [
      rounded(within((event.clientX - box.left) / box.width, 0, 1)),
      rounded(within((event.clientY - box.top) / box.height, 0, 1)),
    ];
  }

  function point(card, [x, y]) {
    const state = stateOf(card);
    state.mover = [Math.min(x, 0.999), Math.min(y, 0.999)];
    const [x0, y0, x1, y1] = state.box || [0, 0, 1, 1];
    if (x < x0 || x >= x1 || y < y0 || y >= y1) state.box = null;
  }

  let drag = null; // { card, from }
  root.addEventListener("pointerdown", (event) => {
    const stage = event.target.closest(".clip-stage");
    if (!stage || event.button !== 0) return;
    const card = stage.closest(".clip");
    if (stateOf(card).tool === "mover") {
      point(card, share(event, stage));
      draw(card);
      report(card, true);
      return;
    }
    drag = { card, stage, from: share(event, stage) };
    stage.setPointerCapture(event.pointerId);
    event.preventDefault();
  });

  root.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const [x, y] = share(event, drag.stage);
    const [ax, ay] = drag.from;
    drag.box = [Math.min(x, ax), Math.min(y, ay), Math.max(x, ax), Math.max(y, ay)];
    drawMarks(drag.card, { ...stateOf(drag.card), box: drag.box });
  });

  root.addEventListener("pointerup", () => {
    if (!drag) return;
    const { card, box } = drag;
    drag = null;
    const state = stateOf(card);
    if (box && box[2] - box[0] > 0.05 && box[3] - box[1] > 0.05) {
      state.box = box;
      keepInside(state);
      report(card);
    }
    draw(card);
  });

  root.addEventListener("pointercancel", () => {
    if (!drag) return;
    const { card } = drag;
    drag = null;
    draw(card);
  });

  root.addEventListener("input", (event) => {
    const card = event.target.closest(".clip");
    if (!card) return;
    const state = stateOf(card);
    const [start, stop] = span(card);
    if (event.target.matches(".clip-start")) {
      if (start >= stop) event.target.value = stop - 1;
      state.frame = Number(event.target.value);
    } else if (event.target.matches(".clip-stop")) {
      if (stop <= start) event.target.value = start + 1;
      state.frame = Number(event.target.value) - 1;
    } else return;
    state.playing = false;
    draw(card);
  });

  root.addEventListener("change", (event) => {
    const card = event.target.closest(".clip");
    if (!card) return;
    const number = event.target.dataset.number;
    if (number !== undefined) takeNumbers(card);
    draw(card);
    report(card);
  });

  function takeNumbers(card) {
    const state = stateOf(card);
    const read = [...card.querySelectorAll("[data-number]")].map((input) =>
      input.value === "" ? null : within(Number(input.value) / 100, 0, 1),
    );
    const [x0, y0, x1, y1, x, y] = read;
    const whole = x0 === 0 && y0 === 0 && x1 === 1 && y1 === 1;
    const sound = [x0, y0, x1, y1].every((side) => side !== null) && x0 < x1 && y0 < y1;
    state.box = sound && !whole ? [x0, y0, x1, y1] : null;
    state.mover = x !== null && y !== null ? [Math.min(x, 0.999), Math.min(y, 0.999)] : null;
    keepInside(state);
  }

  root.addEventListener("click", (event) => {
    const card = event.target.closest(".clip");
    const button = event.target.closest("button");
    if (!card || !button) return;
    const state = stateOf(card);
    if (button.matches(".clip-remove")) {
      tell.remove(card);
      return;
    }
    if (button.matches(".clip-play")) state.playing = !state.playing;
    if (button.dataset.tool) {
      state.tool = button.dataset.tool;
      if (state.tool === "mover") [state.playing, state.frame] = [false, span(card)[0]];
    }
    if (button.matches(".clip-clear")) {
      state[state.tool === "crop" ? "box" : "mover"] = null;
      report(card);
    }
    draw(card);
  });

  function drawAll() {
    for (const card of root.querySelectorAll(".clip")) draw(card);
  }

  let awaited = false; // the next frame of what plays

  function play() {
    awaited = false;
    if (!root.isConnected) return;
    for (const card of root.querySelectorAll(".clip")) {
      const state = stateOf(card);
      if (!state.playing) continue;
      const [start, stop] = span(card);
      state.frame = state.frame + 1 >= stop || state.frame < start ? start : state.frame + 1;
      drawFrame(card);
      goOn(card);
    }
  }

  // Where no clip plays nothing runs: the model has the processors.
  function goOn(card) {
    if (awaited) return;
    awaited = true;
    setTimeout(play, 1000 / Number(card.dataset.fps));
  }

  // What the server knows, where it is not what the page said last: a crop that was found, a way back.
  function heed(card) {
    const { chosen } = card.closest(".clips").dataset;
    const state = stateOf(card);
    if (!chosen || state.told === chosen) return;
    state.told = chosen;
    const { start, stop, box, mover } = JSON.parse(chosen);
    card.querySelector(".clip-start").value = start;
    card.querySelector(".clip-stop").value = stop;
    [state.box, state.mover] = [box, mover];
  }

  return { drawAll, heed };
}
