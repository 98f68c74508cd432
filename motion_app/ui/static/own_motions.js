// Another name for a motion of one's own: the field stands in the name's place while it is typed.
function rename(card, open) {
  const form = card.querySelector(".motion-rename");
  form.hidden = !open;
  card.querySelector(".own-name").hidden = open;
  if (open) form.querySelector("input").select();
  else {
    form.reset();
    card.querySelector("[data-what=rename]").focus();
  }
}

// ``send`` is given what is asked of the motion on the card of a name's form in ``root``.
function listenForNames(root, cards, send) {
  root.addEventListener("submit", (event) => {
    if (!event.target.matches(".motion-rename")) return;
    event.preventDefault();
    const card = event.target.closest(cards);
    const name = event.target.querySelector("input").value;
    send({ what: "rename", digest: card.dataset.digest, name });
  });
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !event.target.closest(".motion-rename")) return;
    event.preventDefault(); // what it stands in stays open
    event.stopPropagation();
    rename(event.target.closest(cards), false);
  });
  root.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button?.closest(cards)) return;
    if ("leave" in button.dataset) rename(button.closest(cards), false);
    else if (button.dataset.what === "rename") rename(button.closest(cards), true);
  });
}
