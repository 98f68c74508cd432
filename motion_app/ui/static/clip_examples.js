// Clips that ship: a press on one becomes an event with its name.
element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-name]");
  if (button) trigger("pick", { name: button.dataset.name });
});
