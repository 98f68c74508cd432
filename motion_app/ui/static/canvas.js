// The picture one marks objects on. The server draws the picture and the masks; this turns pointer
// and keys into points, boxes and strokes, as shares of the frame, and shows at once where they are.
//
// Which tool is held and how wide the brush is: the browser's own, kept while the page is open.
const KEYS = { p: "add", m: "remove", b: "box", d: "brush", e: "eraser", a: "path" };
let tool = "add";

function toolButtons() {
  return [...element.querySelectorAll("button[data-tool]")];
}

function hold(name) {
  tool = name;
  element.dataset.held = name;
  for (const button of toolButtons()) {
    const held = button.dataset.tool === name;
    button.setAttribute("aria-checked", String(held));
    button.tabIndex = held ? 0 : -1;
  }
  element.querySelector(".brush-size").hidden = !/^(brush|eraser)$/.test(name);
}

function sizeSlider() {
  return element.querySelector(".brush-size input");
}

// The radius as a share of the frame's width: the slider's steps are fine for thin brushes.
function radius() {
  return 0.004 + 0.12 * (Number(sizeSlider().value) / 100) ** 2;
}

function resize(step) {
  sizeSlider().value = Number(sizeSlider().value) + step;
  hold(/^(brush|eraser)$/.test(tool) ? tool : "brush");
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-tool]");
  if (button) hold(button.dataset.tool);
});
element.addEventListener("keydown", (event) => {
  if (!event.target.closest("button[data-tool]")) return;
  if (roam(event, toolButtons())) hold(document.activeElement.dataset.tool);
});

// the picture

const aim = { x: 0.5, y: 0.5 };
const BORDER = 0.9999; // the last place that is inside
let gesture = null; // what a pressed pointer has drawn so far
let waiting = 0;

let picture = null; // which one is on show, before the first answer none

function redraw() {
  if (overtaken(props.markup)) return;
  forget();
  draw(mount, props.markup, { near: () => () => frame() });
  hold(tool);
  const now = frame()?.dataset.picture ?? "";
  const picked = navigator.userActivation?.hasBeenActive ?? true; // else it came with a reload
  if (picture !== null && picked && now && now !== picture) bringIntoView(element);
  picture = now;
}

function frame() {
  return element.querySelector(".stage-frame");
}

function place(name, x, y) {
  element.style.setProperty(`--${name}-x`, `${100 * x}%`);
  element.style.setProperty(`--${name}-y`, `${100 * y}%`);
}

function within(value) {
  return Math.min(Math.max(value, 0), BORDER);
}

function onPicture(event) {
  return event.target.closest(".stage-frame") && !event.target.closest(".stage-question");
}

function share(event) {
  const box = frame().getBoundingClientRect();
  return {
    x: within((event.clientX - box.left) / box.width),
    y: within((event.clientY - box.top) / box.height),
  };
}

function send(action) {
  forget();
  waiting += 1;
  element.dataset.waiting = "yes";
  act(action);
}

function sendPoint(x, y, positive) {
  place("sent", x, y);
  send({ kind: "point", x, y, positive });
}

// gestures

function ink() {
  const canvas = element.querySelector(".stage-ink");
  const box = frame().getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  return canvas;
}

function clearInk() {
  const canvas = element.querySelector(".stage-ink");
  if (canvas) canvas.width = canvas.height = 0;
}

// A line with a tip, as it is drawn once the server has it; whose colour it gets is known then.
function sketchPath(pen, points, width) {
  const [x1, y1] = points.at(-1);
  const head = 0.04 * width;
  const [x0, y0] = points.findLast(([x, y]) => Math.hypot(x - x1, y - y1) > head / 2) ?? points[0];
  const angle = Math.atan2(y0 - y1, x0 - x1);
  pen.beginPath();
  pen.moveTo(...points[0]);
  for (const point of points) pen.lineTo(...point);
  if (x0 !== x1 || y0 !== y1) {
    const barb = (turn) => [x1 + head * Math.cos(angle + turn), y1 + head * Math.sin(angle + turn)];
    pen.moveTo(...barb(0.64));
    pen.lineTo(x1, y1);
    pen.lineTo(...barb(-0.64));
  }
  for (const [colour, part] of [["#111111", 1], ["#ffffff", 0.55]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = part * Math.max(4, width / 90);
    pen.stroke();
  }
}

function sketch() {
  const canvas = ink();
  const pen = canvas.getContext("2d");
  const { width, height } = canvas;
  const points = gesture.points.map(({ x, y }) => [x * width, y * height]);
  pen.lineCap = pen.lineJoin = "round";
  if (gesture.tool === "box") {
    const [[x0, y0], [x1, y1]] = [points[0], points.at(-1)];
    const line = Math.max(2, width / 300);
    for (const [colour, dash] of [["#ffffff", []], ["#111111", [3 * line, 3 * line]]]) {
      pen.setLineDash(dash);
      pen.lineWidth = line;
      pen.strokeStyle = colour;
      pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    return;
  }
  if (gesture.tool === "path") {
    sketchPath(pen, points, width);
    return;
  }
  pen.strokeStyle = gesture.tool === "brush" ? "rgba(255,255,255,0.75)" : "rgba(20,20,20,0.75)";
  pen.lineWidth = 2 * radius() * width;
  pen.beginPath();
  pen.moveTo(...points[0]);
  for (const point of points) pen.lineTo(...point);
  if (points.length === 1) pen.lineTo(points[0][0] + 0.01, points[0][1]);
  pen.stroke();
}

function finish() {
  const { tool: used, points } = gesture;
  const [first, last] = [points[0], points.at(-1)];
  gesture = null;
  if (used === "box") {
    const small = Math.abs(first.x - last.x) < 0.01 || Math.abs(first.y - last.y) < 0.01;
    if (small) clearInk();
    else send({ kind: "box", x0: first.x, y0: first.y, x1: last.x, y1: last.y });
    return;
  }
  const line = points.map(({ x, y }) => [Number(x.toFixed(4)), Number(y.toFixed(4))]);
  if (used === "path") send({ kind: "path", points: line });
  else send({ kind: "stroke", points: line, radius: radius(), add: used === "brush" });
}

element.addEventListener("pointerdown", (event) => {
  if (!onPicture(event) || event.button !== 0) return;
  if (!/^(box|brush|eraser|path)$/.test(tool)) return;
  event.preventDefault();
  frame().focus({ preventScroll: true });
  frame().setPointerCapture(event.pointerId);
  gesture = { tool, pointer: event.pointerId, points: [share(event)] };
  sketch();
});
element.addEventListener("pointermove", (event) => {
  if (frame() && event.target.closest(".stage-frame")) {
    const { x, y } = share(event);
    place("brush", x, y);
  }
  if (!gesture || event.pointerId !== gesture.pointer) return;
  for (const moved of event.getCoalescedEvents?.() ?? [event]) gesture.points.push(share(moved));
  if (!event.getCoalescedEvents?.().length) gesture.points.push(share(event));
  if (gesture.points.length > 3900) finish();
  else sketch();
});
element.addEventListener("pointerup", (event) => {
  if (gesture && event.pointerId === gesture.pointer) finish();
});
element.addEventListener("pointercancel", () => {
  gesture = null;
  clearInk();
});

// what a click would give, while the pointer rests on the picture

const STILL = 40; // ms
const NEAR = 0.012; // of the frame: a smaller move asks for nothing new
let asking = null; // the timer of the next question
let asked = null; // the place of the last one
let foresees = true; // until the server says that it is too slow here

function forget() {
  clearTimeout(asking);
  asked = null;
  const picture = element.querySelector(".stage-foreseen");
  if (picture) picture.hidden = true;
}

function ask(place) {
  const far = !asked || Math.hypot(place.x - asked.x, place.y - asked.y) > NEAR;
  if (!far) return;
  clearTimeout(asking);
  asking = setTimeout(() => {
    asked = place;
    trigger("foresee", place);
  }, STILL);
}

element.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse" || !foresees) return;
  if (tool === "add" && !event.buttons && !waiting && onPicture(event)) ask(share(event));
  else forget();
});
element.addEventListener("pointerleave", forget);
watch("foreseen", () => {
  const { address, more } = props.foreseen;
  foresees = more;
  const picture = element.querySelector(".stage-foreseen");
  if (!picture) return;
  picture.hidden = !address || !asked;
  if (address) picture.src = address;
});

// presses

element.addEventListener("click", (event) => {
  if (onPicture(event) && /^(add|remove)$/.test(tool)) {
    const { x, y } = share(event);
    delete element.dataset.aiming;
    sendPoint(x, y, (tool === "add") !== (event.shiftKey || event.altKey));
    return;
  }
  const button = event.target.closest("button");
  if (!usable(button)) return;
  if (button.id === "mask-import") element.querySelector("input[type=file]").click();
  else if (button.dataset.act) {
    act({ kind: button.dataset.act, choice: button.dataset.choice });
  }
});
element.addEventListener("contextmenu", (event) => {
  if (!onPicture(event)) return;
  event.preventDefault();
  const { x, y } = share(event);
  sendPoint(x, y, false);
});
element.addEventListener("change", (event) => {
  if (event.target.type !== "file" || !event.target.files.length) return;
  const reader = new FileReader();
  reader.onload = () => send({ kind: "mask", file: reader.result });
  reader.readAsDataURL(event.target.files[0]);
  event.target.value = "";
});

// keys

function steer(event) {
  const stride = event.shiftKey ? 0.1 : 0.02;
  const moves = {
    ArrowLeft: [-stride, 0],
    ArrowRight: [stride, 0],
    ArrowUp: [0, -stride],
    ArrowDown: [0, stride],
  };
  if (moves[event.key]) {
    aim.x = within(aim.x + moves[event.key][0]);
    aim.y = within(aim.y + moves[event.key][1]);
    place("aim", aim.x, aim.y);
    element.dataset.aiming = "yes";
    if (gesture?.keyed) {
      gesture.points.push({ ...aim });
      sketch();
    }
    return true;
  }
  if (event.key === "Escape" && gesture) {
    gesture = null;
    clearInk();
    return true;
  }
  if (event.key !== "Enter" && event.key !== " ") return false;
  if (/^(add|remove)$/.test(tool)) sendPoint(aim.x, aim.y, (tool === "add") !== event.shiftKey);
  else if (gesture?.keyed) finish(); // the first press begins a line or a box, the second ends it
  else {
    gesture = { tool, keyed: true, points: [{ ...aim }] };
    sketch();
  }
  return true;
}

function shortcut(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    const kind = key === "y" || (key === "z" && event.shiftKey) ? "redo" : "undo";
    if (key !== "z" && key !== "y") return false;
    if (usable(element.querySelector(`#${kind}`))) act({ kind });
    return true;
  }
  if (event.altKey) return false;
  if (KEYS[key]) hold(KEYS[key]);
  else if (key === "n") act({ kind: "fresh" });
  else if (key === "g" && usable(element.querySelector("#grid"))) act({ kind: "grid" });
  else if (key === "[") resize(-8);
  else if (key === "]") resize(8);
  else {
    const candidate = element.querySelectorAll(".candidate")[Number(key) - 1];
    if (!candidate) return false;
    act({ kind: "candidate", choice: candidate.dataset.choice });
  }
  return true;
}

listenWhileHere(document, "keydown", (event) => {
  if (!frame() && !(event.ctrlKey || event.metaKey)) return;
  if (element.offsetParent === null || typing() || event.defaultPrevented) return;
  if (event.target.closest(".candidates")) {
    const choices = [...element.querySelectorAll(".candidate")];
    if (roam(event, choices)) {
      document.activeElement.click();
      return;
    }
  }
  const handled = document.activeElement === frame() && steer(event);
  if (handled || shortcut(event)) event.preventDefault();
});

// answers

listenWhileHere(document, "scene-answered", () => {
  // what was wrong with what was asked is mended, or about to be
  for (const mistake of document.querySelectorAll("#status .mistake[data-met], #upload-note .note")) {
    mistake.hidden = true;
  }
});
whenAnswered((all) => {
  waiting = all ? 0 : Math.max(0, waiting - 1);
  if (waiting) return;
  delete element.dataset.waiting;
  if (!gesture) clearInk();
});
watch("markup", redraw);
watch("download", () => {
  const link = document.createElement("a");
  link.href = props.download.address;
  link.download = props.download.name;
  link.click();
});
place("aim", aim.x, aim.y);
redraw();
