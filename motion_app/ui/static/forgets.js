// A browser that keeps nothing is told so (see front.js).
element.querySelector("#forgets").hidden = !window.motionTransferForgets;
