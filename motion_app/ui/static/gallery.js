// The gallery of one's own videos: a press on a button becomes an event with the card's id. What
// cannot be taken back asks once more, on the button itself.
const SECOND_THOUGHTS = 4000; // ms

function disarm(button) {
  if (button.dataset.label === undefined) return;
  button.textContent = button.dataset.label;
  delete button.dataset.label;
  button.classList.remove("sure");
}

function armed(button) {
  if (button.dataset.label !== undefined) return true;
  button.dataset.label = button.textContent;
  button.textContent = button.dataset.sure;
  button.classList.add("sure");
  setTimeout(() => disarm(button), SECOND_THOUGHTS);
  return false;
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (!button) return;
  if (button.dataset.sure && !armed(button)) return;
  const { id } = button.closest("[data-id]").dataset;
  const eventOf = { side_a: "side", side_b: "side", delete: "remove" };
  trigger(eventOf[button.dataset.do] || "act", { id, action: button.dataset.do });
});
