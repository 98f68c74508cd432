// The clips of a form: what is chosen of one becomes an event of its own.
const editor = clipEditor(element, {
  choose: (card, chosen) => trigger("choose", chosen),
  remove: (card) => trigger("remove", { key: card.dataset.key }),
});
watch("value", editor.drawAll);
editor.drawAll();
