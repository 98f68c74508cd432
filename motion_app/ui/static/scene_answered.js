// Runs after every action on the scene, answered or refused.
() => document.dispatchEvent(new CustomEvent("scene-answered"))
