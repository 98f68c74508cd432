// Up to the four steps, after a request was taken over from further down.
() => document.querySelector("#steps")?.scrollIntoView()
