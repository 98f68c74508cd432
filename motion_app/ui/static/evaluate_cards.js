// A press on a video's card chooses it, or chooses it no more: the server's affair.
element.addEventListener("click", (event) => {
  const card = event.target.closest("button[data-id]");
  if (card) trigger("pick", { id: card.dataset.id });
});
