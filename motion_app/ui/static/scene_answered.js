// Runs after every action of one panel on the scene, answered or refused.
() => document.dispatchEvent(new CustomEvent("scene-answered", { detail: "PANEL" }))
