// The course of a sitting: tasks in, answers out. No element is touched here; the page listens to the events.
//
// Events: "task" (another task, or none), "draft" (the answer in the making), "state" (phase or notice), "progress";
// "say" carries a sentence for screen readers; "stranger": somebody else has signed in; "incomplete": sent too early;
// "stray": there is an edit, and it is not of the best.

import { ApiError, call, deliver } from "./api.js";
import { Drafts, answerOf, isEditKept, keep, numLeft, seal, storage } from "./draft.js";
import { Past } from "./past.js";

const RECHECK_MS = 15_000;
const SLOW_MS = 500;
const OTHER_USER = "other_user"; // how the server refuses what was written as somebody who is not signed in any more

/** @typedef {"loading"|"idle"|"working"|"sending"|"waiting"|"empty"|"lost"|"signed-out"|"stopped"} Phase */

export class Session extends EventTarget {
  constructor() {
    super();
    this.me = null;
    this.task = null;
    /** @type {import("./draft.js").Draft|null} */
    this.draft = null;
    /** @type {Phase} */
    this.phase = "loading";
    this.notice = null; // {text, problem: boolean, undo?: () => void}
    this.outlook = null; // why there is no task, and what may come
    this.asked = false; // whether this person first says that they begin
    this.progress = null;
    this.deadline = 0; // performance.now() when the lease ends
    this.savedAt = null;
    this.saved = ""; // what was
    this.current = null; // the card that keys speak of: a response id
    this.past = new Past(this);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  say(text) {
    this.tell("say", text);
  }

  setPhase(phase, notice = null) {
    this.phase = phase;
    this.notice = notice;
    this.tell("state");
  }

  /** Whether the answer on the page may be changed. */
  get open() {
    return this.phase === "working" && this.task !== null && !this.readOnly;
  }

  /** Nothing can be changed, and not just for the blink of an eye that saving takes. */
  get frozen() {
    return !this.open && this.phase !== "sending";
  }

  /** A task that was skipped, or slipped away by time, can be looked at until it is taken again. */
  get readOnly() {
    return this.task !== null && !this.task.lease && !this.task.answer;
  }

  async start() {
    try {
      const [me, claimed] = await Promise.all([
        deliver("GET", "me", undefined, (error) => this.wait(error, "Opening")),
        deliver("POST", "claim", JSON.stringify({ arriving: true })),
      ]);
      this.drafts = new Drafts(me.user.name);
      this.meet(me);
      this.hear(claimed);
      const { next, problem } = await this.sendLeftOver();
      this.setTask(next === undefined ? claimed.task : next);
      if (problem) this.setPhase(this.phase, { text: problem, problem: true });
    } catch (error) {
      this.fail(error);
    }
  }

  /**
   * Sends what was on its way when the page was closed; gives what went wrong, and the task that comes after it: null
   * where there is none, undefined where nothing was said of that.
   */
  async sendLeftOver() {
    let next, problem;
    for (const [key, draft] of this.drafts.unacknowledged()) {
      try {
        const reply = await deliver("POST", draft.pending.path, draft.pending.body, (error) => this.wait(error));
        if (reply.task !== undefined) next = reply.task;
        this.hear(reply);
        this.noteSaved(draft.pending.path);
        storage.removeItem(key);
      } catch (error) {
        if (!(error instanceof ApiError) || error.status === 401 || error.code === OTHER_USER) throw error;
        keep(key, JSON.stringify({ ...draft, pending: null }));
        problem = `An answer from before was not taken: ${error.message}`;
      }
    }
    return { next, problem };
  }

  /** What comes with a task, or instead of one. */
  hear(reply) {
    if (reply.progress) this.setProgress(reply.progress);
    if (reply.task === undefined) return;
    this.asked = reply.asked;
    this.outlook = reply.outlook && { ...reply.outlook, at: Date.now() };
  }

  noteSaved(path) {
    this.savedAt = new Date();
    this.saved = { submit: "Last answer saved", revise: "Change saved", skip: "Skipped" }[path];
  }

  wait(error, what = "Not saved yet") {
    const phase = this.phase === "loading" ? "loading" : "waiting";
    this.setPhase(phase, { text: `${what}: retrying. ${error.message}`, problem: true });
  }

  /** Guidelines and progress, which others change as well. */
  async refresh() {
    try {
      this.meet(await call("GET", "me"));
    } catch (error) {
      if (error.status === 401 && this.phase === "working") this.fail(error);
    }
  }

  /** Says whether it is still the same person; somebody else may have signed in in another tab. */
  meet(me) {
    if (this.me !== null && me.user.name !== this.me.user.name) {
      this.tell("stranger");
      return false;
    }
    this.me = me;
    this.tell("me");
    this.setProgress(me.progress);
    return true;
  }

  phaseAt(task) {
    return task ? "working" : this.asked ? "idle" : "empty";
  }

  setTask(task, deadline = task?.seconds_left ? performance.now() + 1000 * task.seconds_left : 0) {
    if (task !== null && task.user !== this.me.user.name) {
      this.tell("stranger");
      return;
    }
    this.task = task;
    this.draft = task && this.drafts.load(task);
    this.current = task?.cards[0].id ?? null;
    this.deadline = deadline;
    this.phase = this.phaseAt(task);
    this.notice = null;
    this.tell("task");
    this.tell("state");
    if (task === null) this.lookAgainLater();
  }

  setProgress(progress) {
    this.progress = progress;
    this.tell("progress");
  }

  lookAgainLater() {
    clearTimeout(this.recheck);
    this.recheck = setTimeout(() => {
      if (this.phase !== "empty") return;
      if (document.visibilityState === "visible") this.claim();
      else this.lookAgainLater();
    }, RECHECK_MS);
  }

  /** The task in hand, or the next one. */
  async claim() {
    try {
      const reply = await deliver("POST", "claim", "{}", (error) => this.wait(error, "No task yet"));
      this.hear(reply);
      if (reply.task || this.phase !== "empty") this.setTask(reply.task);
      else {
        this.tell("state");
        this.lookAgainLater();
      }
    } catch (error) {
      this.fail(error);
    }
  }

  async lookAgain() {
    await this.claim();
    if (this.phase === "empty") this.say("Still nothing to do.");
  }

  /** Takes the first task of somebody who came to look. */
  begin() {
    this.asked = false;
    return this.claim();
  }

  /** Changes the draft, keeps it in the browser, and says what was done. */
  change(update, spoken) {
    if (!this.open) return;
    update(this.draft);
    if (this.draft.tiers.length < 2) this.draft.strength = null;
    this.drafts.save(this.task, this.draft);
    this.tell("draft");
    if (spoken) this.say(typeof spoken === "function" ? spoken() : spoken);
  }

  /** Takes over what another tab of the same person has said of the task on the page. */
  catchUp() {
    const newer = this.open ? this.drafts.newer(this.task, this.draft) : null;
    if (newer === null) return;
    this.draft = newer;
    this.tell("draft");
  }

  submit() {
    if (!this.open) return;
    if (numLeft(this.draft, this.task) > 0) {
      this.tell("incomplete");
      return;
    }
    if (!isEditKept(this.draft, this.task)) {
      this.tell("stray");
      return;
    }
    const { user, lease, task_id, revision } = this.task;
    const content = {
      user,
      answer: answerOf(this.draft, this.task),
      active_ms: Math.round(this.draft.activeMs),
      guidelines_version: this.me.guidelines?.version ?? null,
    };
    if (lease) seal(this.draft, "submit", { lease, ...content });
    else seal(this.draft, "revise", { task_id, based_on: revision, ...content });
    this.send();
  }

  /** What was written by hand can be had back, as long as the task is on the page. */
  dropEdit() {
    if (!this.open || this.draft.edit === null) return;
    const { edit } = this.draft;
    this.change((draft) => (draft.edit = null), "The edit is dropped.");
    const undo = () => {
      this.change((draft) => (draft.edit = edit), "The edit is back.");
      this.setPhase(this.phase);
    };
    this.setPhase(this.phase, { text: "The edit is dropped.", undo });
  }

  skip(reason, note) {
    if (!this.open || !this.task.lease) return;
    const { user, lease } = this.task;
    seal(this.draft, "skip", { user, lease, reason, note });
    this.send();
  }

  async send() {
    const { task, draft } = this;
    this.drafts.save(task, draft);
    this.setPhase("sending");
    setTimeout(() => this.phase === "sending" && this.draft === draft && this.setPhase("waiting"), SLOW_MS);
    try {
      const reply = await deliver("POST", draft.pending.path, draft.pending.body, (error) => this.wait(error));
      this.drafts.remove(task);
      this.noteSaved(draft.pending.path);
      this.say(`${this.saved}.`);
      this.hear(reply);
      if (reply.task === undefined) await this.past.goForward(true);
      else {
        this.past.leave();
        this.setTask(reply.task);
      }
    } catch (error) {
      this.fail(error);
    }
  }

  /** What cannot be mended by waiting. The draft stays in the browser. */
  fail(error) {
    if (!(error instanceof ApiError)) throw error;
    const { status, code, message } = error;
    const problem = (text) => ({ text, problem: true });
    if (status === 401) {
      this.setPhase("signed-out", problem("You are signed out. Your draft is kept in this browser."));
      return;
    }
    if (code === OTHER_USER) {
      this.tell("stranger"); // what was to be sent stays in the browser until its writer is back
      return;
    }
    const text = this.draft?.pending ? `Not saved: ${message}` : message;
    this.forgetRequest();
    if (this.task && (status === 409 || code === "not_yours")) this.setPhase("lost", problem(text));
    else if (status === 403 || !this.task) this.setPhase("stopped", problem(text));
    else this.setPhase("working", problem(text));
  }

  /** A failure that touches no answer. */
  inform(error) {
    if (!(error instanceof ApiError) || error.status === 401) this.fail(error);
    else this.setPhase(this.phase, { text: error.message, problem: true });
  }

  /** A refused request is not repeated; the next one has another key. */
  forgetRequest() {
    if (!this.draft?.pending) return;
    this.draft.pending = null;
    this.drafts.save(this.task, this.draft);
  }

  /** The page is looked at again: goes on where it was left, unless it is somebody else who signed in meanwhile. */
  async resume() {
    if (this.me === null) {
      if (this.phase === "signed-out") this.start();
      return;
    }
    const me = await call("GET", "me").catch(() => null); // signed out, or out of reach: whatever is sent next says so
    if (me === null || !this.meet(me) || this.phase !== "signed-out") return;
    if (this.draft?.pending) this.send();
    else this.setPhase(this.phaseAt(this.task));
  }

  /** Gives up the task that was lost to somebody else. */
  async giveUp() {
    this.drafts.remove(this.task);
    this.past.leave();
    this.phase = "loading";
    await this.claim();
  }

  /** What is held for this person, `task` and `deadline`: what is on the page, or what was left to look back. */
  get hold() {
    if (this.task?.lease) return this;
    return this.past.held?.task.lease ? this.past.held : null;
  }

  get secondsLeft() {
    return this.hold?.deadline ? Math.max(0, (this.hold.deadline - performance.now()) / 1000) : null;
  }

  /** Keeps the task while somebody is at it. */
  async extend() {
    const lease = this.hold?.task.lease;
    if (!lease || this.phase !== "working") return;
    try {
      await call("POST", "extend", JSON.stringify({ lease }));
      if (this.hold?.task.lease === lease) this.hold.deadline = performance.now() + 1000 * this.me.lease_seconds;
      if (this.overdue) this.setPhase("working");
      this.overdue = false;
    } catch (error) {
      if (error.status === 401) this.fail(error);
      else if (!error.passing && this.task?.lease === lease) {
        this.overdue = true;
        this.setPhase("working", { text: `${error.message} You can still try to submit.`, problem: true });
      }
    }
  }
}
