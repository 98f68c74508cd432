// The library: search happens here, at once; everything else is the server's.
const root = element;
let query = "";
let whose = "";

function filter() {
  const input = root.querySelector("input[type=search]");
  if (!input) return;
  if (input.value !== query && document.activeElement !== input) input.value = query;
  pressWhose(root, whose);
  let found = 0;
  const cards = root.querySelectorAll(".motion-card");
  for (const card of cards) {
    const hit = hasWords(card, query) && isWhose(card, whose);
    card.hidden = !hit;
    if (hit) found += 1;
  }
  const count = root.querySelector(".motion-search span");
  count.textContent = count.dataset.count.replace("{n}", found).replace("{all}", cards.length);
  root.querySelector(".motion-unfound").hidden = found > 0 || cards.length === 0;
}

root.addEventListener("input", (event) => {
  if (!event.target.matches("input[type=search]")) return;
  query = event.target.value;
  filter();
});

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("show" in button.dataset) {
    whose = button.dataset.show;
    filter();
    return;
  }
  if (button.dataset.what === "rename") return; // as below
  if (button.dataset.restore) trigger("restore", { token: button.dataset.restore });
  const card = button.closest(".motion-card");
  if (card && button.dataset.what) {
    button.disabled = button.dataset.what !== "export";
    trigger("act", { what: button.dataset.what, digest: card.dataset.digest });
  }
});

// What was just brought in is shown once.
let shownLast = "";
function showBrought() {
  const digest = root.querySelector(".motion-grid")?.dataset.brought ?? "";
  const card = digest && root.querySelector(`.motion-card[data-digest="${digest}"]`);
  if (card && digest !== shownLast) bringIntoView(card);
  shownLast = digest;
}

listenForNames(root, ".motion-card", (asked) => trigger("act", asked));
watch("value", () => {
  filter();
  showBrought();
});
filter();
