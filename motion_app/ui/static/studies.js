// A study that was just made comes into view.
watch("value", () => {
  const made = element.querySelector("[data-new]");
  if (made) bringIntoView(made);
});
