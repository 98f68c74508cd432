// The list of trainings: what the buttons mean is the server's affair.
const root = element;

root.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-what]");
  if (!button) return;
  trigger("job", { what: button.dataset.what, id: button.dataset.id });
  if (button.dataset.what !== "use") return;
  const first = document.querySelector(".tabs [role=tab]"); // Transfer is the first tab
  if (first) first.click();
  requestAnimationFrame(() => offer(button.dataset.name));
});

// The new motion to the first object that has none: its cards open, that one alone among them.
function offer(name) {
  const waiting = document.querySelector("#objects .motion-button[data-motion='']");
  if (!waiting) return;
  waiting.click();
  const search = document.querySelector(".motion-dialog[open] input[type=search]");
  search.value = name;
  search.dispatchEvent(new Event("input", { bubbles: true }));
}
