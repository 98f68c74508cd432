// Runs before anything else of the page.
//
// A browser may keep nothing for it (site data is blocked,
// or the page stands in a sandboxed frame); reading what it kept throws an error then. What the
// page would have kept it has until it is closed, and it says so.
(() => {
  function keptHere(entries) {
    const kept = new Map(entries);
    return {
      get length() { return kept.size; },
      key: (place) => [...kept.keys()][place] ?? null,
      getItem: (name) => kept.get(String(name)) ?? null,
      setItem: (name, text) => void kept.set(String(name), String(text)),
      removeItem: (name) => void kept.delete(String(name)),
      clear: () => kept.clear(),
    };
  }

  function put(owner, name, descriptor) {
    try {
      Object.defineProperty(owner, name, { configurable: true, ...descriptor });
    } catch {
      console.warn(`${name} cannot be replaced`);
    }
  }

  // gradio's own words are to be in the page's language, whatever the browser's is, and it is not to
  // declare another one.
  const root = document.documentElement;
  const language = root.lang;
  const full = { zh: "zh-CN" }[language] ?? language;
  put(navigator, "language", { get: () => full });
  put(navigator, "languages", { get: () => [full] });
  new MutationObserver(() => {
    if (root.lang !== language) root.lang = language;
  }).observe(root, { attributes: true, attributeFilter: ["lang"] });

  // gradio calls a toast's head a button, with the one that closes it inside: nobody who listens to
  // the page would be told of the inner one.
  new MutationObserver(() => {
    for (const head of document.querySelectorAll(".toast-header[role]")) {
      head.removeAttribute("role");
      head.removeAttribute("tabindex");
    }
  }).observe(root, { childList: true, subtree: true });

  // gradio's clock of a call that is under way draws itself at every frame, in 6.31 even the one of
  // the page's own loading, long after it has gone: a core for nothing. Once a second will do.
  const SECOND = 1000; // ms
  const clock = /performance\.now\(\)[^;]*\/1e3/; // nothing else counts seconds in a frame
  const frame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (draw) =>
    clock.test(String(draw)) ? setTimeout(draw, SECOND) : frame(draw);

  // What nobody can see need not play; it goes on when it comes into view. The comparison sees to
  // its pair itself.
  const resting = new WeakSet();
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting && resting.delete(target)) target.play().catch(() => {});
      else if (!isIntersecting && !target.paused) {
        resting.add(target);
        target.pause();
      }
    }
  });
  document.addEventListener("play", ({ target }) => {
    if (target.closest("#compare")) return;
    seen.unobserve(target); // so that it is looked at anew
    seen.observe(target);
  }, true);

  for (const name of ["localStorage", "sessionStorage"]) {
    const trial = "motion-transfer-trial";
    try {
      window[name].setItem(trial, trial);
      window[name].removeItem(trial);
    } catch {
      let entries = []; // a full store can still be read
      try {
        entries = Object.entries(window[name]);
      } catch {
        // there is nothing to read
      }
      put(window, name, { value: keptHere(entries) });
      if (name === "localStorage") window.motionTransferForgets = true;
    }
  }
  try {
    void document.cookie;
  } catch {
    put(document, "cookie", { get: () => "", set: () => {} });
  }

  // A sandboxed frame has no origin of its own: what it calls carries the word by which the server
  // knows its own page from anybody else's.
  if (window.origin !== "null") return;
  const header = "x-page-word";
  const word = "PAGE_WORD";
  const server = new URL(location.href).host;
  const plain = window.fetch.bind(window);
  window.fetch = (input, init) => {
    const request = new Request(input, init);
    if (new URL(request.url).host !== server) return plain(request);
    const headers = new Headers(request.headers);
    headers.set(header, word);
    return plain(new Request(request, { headers }));
  };
  const { open } = XMLHttpRequest.prototype;
  XMLHttpRequest.prototype.open = function opened(method, url, ...rest) {
    open.call(this, method, url, ...rest);
    if (new URL(url, location.href).host === server) this.setRequestHeader(header, word);
  };
})();
