// Of whom motions are shown: the choice of a group of buttons.
function isWhose(card, chosen) {
  return !chosen || !("whose" in card.dataset) || card.dataset.whose === chosen;
}

function pressWhose(root, chosen) {
  for (const button of root.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === chosen));
  }
}

// Whether a card has all the words that are typed into a search field.
function hasWords(card, typed) {
  return typed.toLowerCase().split(/\s+/).every((word) => card.dataset.words.includes(word));
}
