// Whether a card has all the words that are typed into a search field.
function hasWords(card, typed) {
  return typed.toLowerCase().split(/\s+/).every((word) => card.dataset.words.includes(word));
}
