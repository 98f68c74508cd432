// Runs after every action of one panel on the scene, answered or refused; "" stands for all that
// was under way.
() => document.dispatchEvent(new CustomEvent("scene-answered", { detail: "PANEL" }))
