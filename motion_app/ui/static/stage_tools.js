// Which tool is held and how wide the brush is: the browser's own, kept while the page is open.
const KEYS = { p: "add", m: "remove", b: "box", d: "brush", e: "eraser" };
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
