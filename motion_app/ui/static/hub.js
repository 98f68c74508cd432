// The motions of a repository of the hub: the server lists them and brings them in.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || button.disabled) return;
  button.disabled = true; // until the server's answer is drawn in its place
  if ("look" in button.dataset) trigger("look", {});
  else trigger("bring", { file: button.dataset.file });
});
