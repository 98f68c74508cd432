// The list of trainings: what the buttons mean is the server's affair.
const root = element;

root.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-what]");
  if (!button) return;
  trigger("job", { what: button.dataset.what, id: button.dataset.id });
  if (button.dataset.what !== "use") return;
  const first = document.querySelector(".tabs [role=tab]"); // Transfer is the first tab
  if (first) first.click();
});
