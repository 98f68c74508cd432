// What a tab or a fold shows for the first time gradio fills in twice, the second time with what it
// held when the page was built, over whatever was entered meanwhile. So it is seen from then on.
(() => {
  const LONGEST = 3000; // ms, should gradio fill in nothing the second time
  const known = new WeakSet();
  const filling = new Set();

  function show(nodes) {
    for (const node of nodes) {
      filling.delete(node);
      delete node.dataset.filling;
    }
  }

  function showWhenFilled(node) {
    if (known.has(node)) return;
    known.add(node);
    filling.add(node);
    node.dataset.filling = "";
    setTimeout(() => show([node]), LONGEST);
  }

  // It waits for a frame in between, and nothing else in the page makes a promise of one.
  const frame = window.requestAnimationFrame.bind(window);
  const isPromised = (draw) => /\[native code\]/.test(String(draw));
  window.requestAnimationFrame = (draw) => {
    if (!isPromised(draw)) return frame(draw);
    return frame((moment) => {
      draw(moment);
      const filled = [...filling];
      frame(() => show(filled)); // what the promise does comes before the next one
    });
  };

  const isPanel = (node) => node.getAttribute?.("role") === "tabpanel";
  new MutationObserver((changes) => {
    for (const { addedNodes } of changes) {
      for (const node of addedNodes) if (isPanel(node)) showWhenFilled(node);
    }
  }).observe(document.documentElement, { childList: true, subtree: true });
  addEventListener("click", ({ target }) => {
    const fold = target.closest?.(".gr-accordion > button.label-wrap");
    for (let part = fold?.nextElementSibling; part; part = part.nextElementSibling) {
      showWhenFilled(part);
    }
  }, { capture: true });
})();
