// Time: how long this sitting is, how long somebody was at the task, how long the task is held.

const IDLE_MS = 60_000;
const TICK_MS = 1000;
const SAVE_EVERY_TICKS = 10;
const REFRESH_EVERY_TICKS = 300;
const SHOW_LEASE_BELOW_S = 300;

export class Clock {
  constructor(session, show) {
    Object.assign(this, { session, show, lastInput: performance.now(), last: performance.now(), ticks: 0, activeMs: 0 });
    for (const name of ["pointerdown", "pointermove", "keydown", "scroll", "touchstart"]) {
      document.addEventListener(name, () => this.touched(), { passive: true, capture: true });
    }
    setInterval(() => this.tick(), TICK_MS);
  }

  touched() {
    this.lastInput = performance.now();
  }

  get busy() {
    return document.visibilityState === "visible" && performance.now() - this.lastInput < IDLE_MS;
  }

  /** Another task: what came before does not count for it. */
  restart() {
    this.last = performance.now();
  }

  /** Adds the time since the last tick to the task on the page, if somebody was there. */
  count() {
    const now = performance.now();
    const passed = now - this.last;
    this.last = now;
    const { session } = this;
    if (!this.busy || passed > 10 * TICK_MS) return;
    this.activeMs += passed;
    if (session.open) session.draft.activeMs += passed;
  }

  tick() {
    this.count();
    const { session } = this;
    if (++this.ticks % SAVE_EVERY_TICKS === 0 && session.open && session.draft.savedAt) {
      session.drafts.saveTime(session.task, session.draft);
    }
    if (this.ticks % REFRESH_EVERY_TICKS === 0 && this.busy && session.me) session.refresh();
    if (this.busy && session.secondsLeft !== null && session.secondsLeft < session.me.lease_seconds / 2) this.extend();
    this.show(this);
  }

  async extend() {
    if (this.extending) return;
    this.extending = true;
    await this.session.extend();
    setTimeout(() => (this.extending = false), 5 * TICK_MS);
  }

  /** What to say of the lease: nothing while there is plenty of time. */
  leaseText() {
    const { secondsLeft, task } = this.session;
    if (!task?.lease || secondsLeft === null || secondsLeft > SHOW_LEASE_BELOW_S) return "";
    if (secondsLeft === 0) return "No longer held for you: move the mouse or press a key to take it up again";
    return `Held for you another ${minutes(secondsLeft)}`;
  }
}

/** "4:05" */
export function minutes(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

/** "1 h 5 min", "12 min" */
export function hours(seconds) {
  const whole = Math.floor(seconds / 60);
  return whole < 60 ? `${whole} min` : `${Math.floor(whole / 60)} h ${whole % 60} min`;
}
