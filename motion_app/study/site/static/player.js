// Several videos on one clock, and which of their frames were shown.

const NUDGE_S = 0.04; // off by more: play a little faster or slower
const JUMP_S = 0.2; // off by more: seek
// A busy computer drops frames of many videos at once. In undisturbed playback a gap as short as
// this one counts as shown; longer ones do not.
const GAP_S = 0.3;
const SETTLE_MS = 1500; // how long a seek may take before playback goes on without it

/** Which frames of a clip were on the screen. */
export class Coverage {
  constructor(frames, seen = []) {
    this.frames = Math.max(1, frames);
    this.seen = new Set(seen.filter((frame) => frame < this.frames));
  }

  mark(first, last = first) {
    for (let frame = Math.max(0, first); frame <= Math.min(last, this.frames - 1); frame += 1) {
      this.seen.add(frame);
    }
  }

  get share() {
    return this.seen.size / this.frames;
  }
}

class Track {
  constructor(video, coverage, fps) {
    Object.assign(this, { video, coverage, fps, last: null, visible: true, live: true });
    this.tells = Boolean(video.requestVideoFrameCallback); // some browsers do not say what they show
    this.observer = new IntersectionObserver(
      ([entry]) => (this.visible = entry.intersectionRatio >= 0.5),
      { threshold: [0, 0.5, 1] },
    );
    this.observer.observe(video);
  }

  get length() {
    return this.video.duration || 0;
  }

  /** A frame at `seconds` of the clip is on the screen. */
  show(seconds, playing) {
    if (!this.coverage || !this.visible || document.hidden) {
      this.last = null;
      return;
    }
    const frame = Math.min(Math.floor(seconds * this.fps + 0.01), this.coverage.frames - 1);
    const gap = this.last === null ? -1 : frame - this.last;
    const together = playing && gap >= 0 && gap <= GAP_S * this.fps;
    this.coverage.mark(together ? this.last : frame, frame);
    this.last = frame;
  }

  /** The clip was played to its end. */
  end() {
    if (this.last === null || !this.coverage) return;
    this.show(this.length, true);
  }
}

export class Player {
  #tracks = [];
  #playing = false;
  #since = 0;
  #base = 0;
  #turn = 0; // counts loads and seeks: what a later one overtook stops
  #moving = false;

  /** `onTick(time, duration, playing)` at every picture of the screen. */
  constructor({ fps, onTick }) {
    this.fps = fps;
    this.onTick = onTick;
    this.loop = true;
    const tick = () => {
      this.#tick();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    document.addEventListener("visibilitychange", () => document.hidden && this.pause());
  }

  /** Take these videos, whose metadata is loaded: [{video, coverage or null}]. */
  load(items) {
    this.unload();
    this.#tracks = items.map(({ video, coverage }) => new Track(video, coverage, this.fps));
    for (const track of this.#tracks) this.#watch(track);
    this.#base = 0;
  }

  unload() {
    this.#turn += 1;
    this.#playing = false;
    this.#moving = false;
    for (const track of this.#tracks) {
      track.live = false;
      track.observer.disconnect();
      track.video.pause();
    }
    this.#tracks = [];
  }

  get duration() {
    return Math.max(0, ...this.#tracks.map((track) => track.length));
  }

  get time() {
    if (!this.#playing || this.#moving) return this.#base;
    return Math.min(this.#base + (performance.now() - this.#since) / 1000, this.duration);
  }

  get playing() {
    return this.#playing;
  }

  toggle() {
    if (this.#playing) this.pause();
    else this.play();
  }

  play() {
    if (this.#playing || !this.#tracks.length) return;
    this.#playing = true;
    this.#go(this.#base >= this.duration - 1 / this.fps ? 0 : this.#base);
  }

  pause() {
    if (!this.#playing) return;
    const time = this.time;
    this.#playing = false;
    this.#go(time);
  }

  seek(time) {
    this.#go(Math.min(Math.max(0, time), this.duration));
  }

  step(frames) {
    this.pause();
    this.seek((Math.round(this.time * this.fps) + frames) / this.fps);
  }

  /** Bring all videos to `time`, wait until each is there, and go on together. */
  async #go(time) {
    const turn = (this.#turn += 1);
    this.#base = time;
    this.#moving = true;
    for (const track of this.#tracks) {
      track.video.pause();
      track.last = null;
    }
    await Promise.all(this.#tracks.map((track) => settle(track.video, this.#target(track, time))));
    if (turn !== this.#turn) return;
    this.#moving = false;
    if (!this.#playing) return;
    for (const track of this.#tracks) {
      track.show(track.video.currentTime, false);
      track.video.playbackRate = 1;
      if (time < track.length) track.video.play().catch(() => this.pause());
    }
    this.#since = performance.now();
  }

  /** Half a frame in, where rounding cannot reach the frame before. */
  #target(track, time) {
    const frame = Math.round(time * this.fps);
    return Math.min(time === 0 ? 0 : (frame + 0.5) / this.fps, Math.max(0, track.length - 0.01));
  }

  #tick() {
    const duration = this.duration;
    const time = this.time;
    this.onTick(time, duration, this.#playing);
    for (const track of this.#tracks) {
      const { video } = track;
      if (!track.tells && !video.seeking) track.show(video.currentTime, this.#playing && !this.#moving);
    }
    if (!this.#playing || this.#moving || !duration) return;
    if (time >= duration) {
      for (const track of this.#tracks) track.end();
      if (!this.loop) this.#playing = false;
      this.#go(this.loop ? 0 : duration);
      return;
    }
    if (this.#tracks.some((track) => track.video.readyState < 2)) {
      this.#base = time; // one of them has no picture yet: the clock waits for it
      this.#since = performance.now();
    }
    for (const { video, length } of this.#tracks) {
      if (time >= length - 1 / this.fps) continue;
      const drift = video.currentTime - time;
      if (Math.abs(drift) > JUMP_S && !video.seeking) video.currentTime = time;
      video.playbackRate = Math.abs(drift) > NUDGE_S ? Math.min(1.1, Math.max(0.9, 1 - drift)) : 1;
    }
  }

  #watch(track) {
    const { video } = track;
    if (!track.tells) return;
    const look = (now, { mediaTime }) => {
      if (!track.live) return;
      track.show(mediaTime, this.#playing && !this.#moving);
      video.requestVideoFrameCallback(look);
    };
    video.requestVideoFrameCallback(look);
  }
}

function settle(video, time) {
  if (Math.abs(video.currentTime - time) < 0.001 && video.readyState >= 2) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      video.removeEventListener("seeked", done);
      resolve();
    };
    const timer = setTimeout(done, SETTLE_MS);
    video.addEventListener("seeked", done);
    video.currentTime = time;
  });
}
