// How the picture is fitted to the model's frame.
draw(mount, props.markup);
watch("markup", () => draw(mount, props.markup));
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) act({ kind: button.dataset.act });
});
element.addEventListener("change", (event) => {
  if (event.target.name === "fit") act({ kind: "fit", fit: event.target.value });
  if (event.target.name === "shift") {
    act({ kind: "fit", fit: "crop", shift: Number(event.target.value) });
  }
});
