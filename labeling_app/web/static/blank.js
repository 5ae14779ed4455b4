// What stands in the place of a task: why there is none and what may come, or where somebody begins who came to look.

import { button, count, el, setText } from "./dom.js";

export class Blank {
  constructor(session, actions) {
    this.session = session;
    this.title = el("h2", { tabindex: "-1" });
    this.why = el("p", { class: "why" });
    this.more = el("p", { class: "quiet" });
    this.looked = el("p", { class: "quiet" });
    this.begin = button("Start ranking", () => session.begin(), { class: "submit" });
    this.again = button("Look again", () => session.lookAgain());
    this.past = button("Earlier tasks", actions.history);
    const buttons = el("p", { class: "ways" }, this.begin, this.again, this.past);
    this.node = el("div", { class: "blank" }, this.title, this.why, this.more, buttons, this.looked);
  }

  draw() {
    const { phase, task, outlook, progress } = this.session;
    this.node.hidden = task !== null;
    this.node.classList.toggle("opening", phase === "loading");
    const [title, why, more] = this.words();
    for (const [node, text] of [[this.title, title], [this.why, why], [this.more, more]]) {
      setText(node, text);
      node.hidden = !text;
    }
    const looked = phase === "empty" && outlook ? `This page looks for new tasks by itself, last at ${clock(outlook.at, true)}.` : "";
    setText(this.looked, looked);
    this.begin.hidden = phase !== "idle";
    this.again.hidden = phase !== "empty";
    this.past.hidden = !["empty", "idle"].includes(phase) || progress.num_answered + progress.num_skipped === 0;
  }

  words() {
    const { phase, outlook, progress } = this.session;
    if (phase === "loading") return ["", "Opening…", ""];
    if (phase === "idle") {
      const num = progress.num_open_for_me;
      const open = `There ${num === 1 ? "is" : "are"} ${count(num, "task")} for you. None is taken from the annotators before you start.`;
      return ["You are here as an admin", num === 0 ? "Just now there is no task for you." : open, soFar(progress)];
    }
    if (phase !== "empty") return ["", "", ""];
    return ["Nothing to do just now", outlook ? reason(outlook) : "", soFar(progress)];
  }
}

/** @param {{num_tasks: number, num_with_others: number, seconds_to_next: number|null, num_for_others: number, at: number}} outlook */
function reason(outlook) {
  const { num_tasks, num_with_others, seconds_to_next, num_for_others, at } = outlook;
  if (num_tasks === 0) return "There are no tasks here yet.";
  if (num_with_others > 0) {
    const time = clock(at + 1000 * seconds_to_next);
    return num_with_others === 1
      ? `One task is with somebody else; it comes back if it is not answered by ${time}.`
      : `${num_with_others} tasks are with other people; the first comes back if it is not answered by ${time}.`;
  }
  if (num_for_others > 0) {
    const waits = num_for_others === 1 ? "one still waits" : `${num_for_others} still wait`;
    return `You have answered or skipped all that are here; ${waits} for somebody else.`;
  }
  return "Everything here is done. Thank you!";
}

function soFar({ num_answered, num_today, num_skipped }) {
  if (num_answered + num_skipped === 0) return "";
  const today = num_answered > 0 ? `, ${num_today === num_answered ? "all" : num_today} of them today` : "";
  const skipped = num_skipped > 0 ? ` You skipped ${num_skipped}, and can still answer ${num_skipped === 1 ? "it" : "them"} under Earlier tasks.` : "";
  return `You have answered ${count(num_answered, "task")}${num_answered === 1 && num_today === 1 ? ", today" : today}.${skipped}`;
}

function clock(at, withSeconds = false) {
  return new Date(at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", ...(withSeconds && { second: "2-digit" }) });
}
