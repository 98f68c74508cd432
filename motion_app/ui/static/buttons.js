// Buttons that are actions and nothing else.
draw(mount, props.markup);
watch("markup", () => draw(mount, props.markup));
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-act]");
  if (button) act({ kind: button.dataset.act, name: button.dataset.name });
});
