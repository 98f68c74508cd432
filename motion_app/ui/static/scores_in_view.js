// Scores come into view when they are there: they stand below all that was chosen for them.
watch("value", () => {
  const table = element.querySelector("table");
  if (!table || table.getBoundingClientRect().top < window.innerHeight * 0.6) return;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
});
