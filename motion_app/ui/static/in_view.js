// Where the page is one column, what was just picked or made may lie far away.
function bringIntoView(node) {
  if (!window.matchMedia("(max-width: 700px)").matches) return;
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  node.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}
