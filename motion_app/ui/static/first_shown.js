// What a tab or a fold shows for the first time gradio fills in twice, the second time a frame or
// two later with what it held when the page was built, over whatever was entered meanwhile. So it is
// seen from then on.
(() => {
  const FRAMES = 4;
  const known = new WeakSet();

  function showWhenFilled(node) {
    if (known.has(node)) return;
    known.add(node);
    node.dataset.filling = "";
    let left = FRAMES;
    requestAnimationFrame(function frame() {
      left -= 1;
      if (left > 0) requestAnimationFrame(frame);
      else delete node.dataset.filling;
    });
  }

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
