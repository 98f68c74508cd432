// The picture one clicks on. The server draws the picture and the masks; this turns pointer and
// keys into points, as shares of the frame's width and height, and shows at once where they fell.
const root = element;
const aim = { x: 0.5, y: 0.5 };

function frame() {
  return root.querySelector(".stage-frame");
}

function place(name, x, y) {
  root.style.setProperty(`--${name}-x`, `${100 * x}%`);
  root.style.setProperty(`--${name}-y`, `${100 * y}%`);
}

function send(x, y, flip) {
  place("sent", x, y);
  root.dataset.waiting = "yes";
  trigger("point", { x, y, flip });
}

function share(event) {
  const box = frame().getBoundingClientRect();
  const within = (value) => Math.min(Math.max(value, 0), 0.9999);
  return {
    x: within((event.clientX - box.left) / box.width),
    y: within((event.clientY - box.top) / box.height),
  };
}

root.addEventListener("click", (event) => {
  if (!frame() || !event.target.closest(".stage-frame")) return;
  const { x, y } = share(event);
  delete root.dataset.aiming;
  send(x, y, event.shiftKey || event.altKey);
});

root.addEventListener("contextmenu", (event) => {
  if (!frame() || !event.target.closest(".stage-frame")) return;
  event.preventDefault();
  const { x, y } = share(event);
  send(x, y, true);
});

root.addEventListener("keydown", (event) => {
  if (!frame() || document.activeElement !== frame()) return;
  const stride = event.shiftKey ? 0.1 : 0.02;
  const moves = {
    ArrowLeft: [-stride, 0],
    ArrowRight: [stride, 0],
    ArrowUp: [0, -stride],
    ArrowDown: [0, stride],
  };
  if (moves[event.key]) {
    aim.x = Math.min(Math.max(aim.x + moves[event.key][0], 0), 0.9999);
    aim.y = Math.min(Math.max(aim.y + moves[event.key][1], 0), 0.9999);
    place("aim", aim.x, aim.y);
    root.dataset.aiming = "yes";
  } else if (event.key === "Enter" || event.key === " ") {
    send(aim.x, aim.y, event.shiftKey);
  } else if (event.key === "n" && !event.ctrlKey && !event.metaKey) {
    trigger("fresh", {});
  } else if (event.key === "z" && (event.ctrlKey || event.metaKey)) {
    trigger("undo", {});
  } else {
    return;
  }
  event.preventDefault();
});

place("aim", aim.x, aim.y);
