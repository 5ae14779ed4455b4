// Looking back: earlier tasks of this person, step by step, and the way home to the one in hand.

import { call } from "./api.js";

export class Past {
  constructor(session) {
    this.session = session;
    this.handled = []; // earlier tasks, newest first
    this.at = -1; // which of them is on the page
    this.held = null; // {task, deadline} that was left to look back
    this.turn = Promise.resolve();
  }

  get looking() {
    return this.at >= 0;
  }

  leave() {
    this.at = -1;
    this.held = null;
  }

  /** Steps are taken one by one, however fast the keys come. */
  inTurn(step) {
    this.turn = this.turn.then(step, step);
    return this.turn;
  }

  goBack() {
    return this.inTurn(() => this.stepBack());
  }

  /** One task nearer to the one in hand; `home`: all the way. */
  goForward(home = false) {
    return this.inTurn(() => this.stepForward(home));
  }

  async stepBack() {
    if (!["working", "empty", "idle"].includes(this.session.phase)) return;
    if (!this.looking && (await this.load()) === null) return;
    if (!(await this.look(this.at + 1, 1))) this.session.say("There is nothing earlier.");
  }

  async stepForward(home) {
    const { session, held } = this;
    if (!this.looking) return;
    if (!home && (await this.look(this.at - 1, -1))) return;
    this.leave();
    session.setTask(held?.task ?? null, held?.deadline);
    if (!held && !session.asked) await session.claim();
  }

  /** The list, anew. */
  async load() {
    try {
      this.handled = (await call("GET", "history")).handled;
      return this.handled;
    } catch (error) {
      this.session.inform(error);
      return null;
    }
  }

  /**
   * Shows the earlier task at `index` of `handled`, or the next one in the direction of `step` that can be shown; says
   * whether there was one to try. `take`: a task that was skipped is to be answered after all.
   */
  async look(index, step, take = false) {
    const { session } = this;
    for (; index >= 0 && index < this.handled.length; index += step) {
      try {
        const { task } = await call("POST", "reopen", JSON.stringify({ task_id: this.handled[index].task_id, take }));
        if (!this.looking) this.held = session.task && { task: session.task, deadline: session.deadline };
        this.at = index;
        session.setTask(task);
        session.say(`Earlier task ${index + 1} of ${this.handled.length}.`);
        return true;
      } catch (error) {
        session.inform(error);
        if (step === 0 || error.passing || error.status === 401) return true;
      }
    }
    return false;
  }

  lookAt(index) {
    return this.look(index, 0);
  }

  /** Answers a skipped task after all, if nobody else has it. */
  takeAgain() {
    return this.look(this.at, 0, true);
  }
}
