// Words for things in the picture. While they are looked for, the button waits and a line says so.
draw(mount, props.markup);
const form = element.querySelector("form");
const note = form.querySelector(".note");
const help = note.textContent;

function waiting(busy) {
  form.toggleAttribute("aria-busy", busy);
  form.querySelector("button").disabled = busy;
  note.textContent = busy ? form.dataset.busy : help;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const words = form.querySelector("input").value.trim();
  if (!words || form.hasAttribute("aria-busy")) return;
  waiting(true);
  act({ kind: "find", text: words });
});
whenAnswered(() => waiting(false));
