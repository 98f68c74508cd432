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

function rename(card, open) {
  const form = card.querySelector(".motion-rename");
  form.hidden = !open;
  card.querySelector("h3").hidden = open;
  if (open) form.querySelector("input").select();
  else {
    form.reset();
    card.querySelector("[data-what=rename]").focus();
  }
}

root.addEventListener("submit", (event) => {
  event.preventDefault();
  const card = event.target.closest(".motion-card");
  const name = event.target.querySelector("input").value;
  trigger("act", { what: "rename", digest: card.dataset.digest, name });
});

root.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target.closest(".motion-rename")) {
    rename(event.target.closest(".motion-card"), false);
  }
});

root.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("show" in button.dataset) {
    whose = button.dataset.show;
    filter();
    return;
  }
  if ("leave" in button.dataset) rename(button.closest(".motion-card"), false);
  if (button.dataset.what === "rename") {
    rename(button.closest(".motion-card"), true);
    return;
  }
  if (button.dataset.restore) trigger("restore", { token: button.dataset.restore });
  const card = button.closest(".motion-card");
  if (card && button.dataset.what) {
    button.disabled = button.dataset.what !== "export";
    trigger("act", { what: button.dataset.what, digest: card.dataset.digest });
  }
});

watch("value", filter);
filter();
