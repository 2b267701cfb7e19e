// Asking the student, and what the simulator makes of the answer.

import { post } from "./api.js";
import { attempt, giveUp } from "./attempts.js";
import { showBars } from "./bars.js";
import { byId, element, say } from "./dom.js";
import { questionOf, startForm } from "./form.js";
import { hideSwitch, showSwitch, startSwitch } from "./switch.js";

const VIEWS = [
  ["sim_x", "the question alone"],
  ["sim_e", "the rationale alone"],
  ["sim_xe", "question and rationale"],
];

export function startAsking(onAnswered) {
  startForm();
  startSwitch();
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    giveUp("switch");
    attempt("ask", (signal) => ask(signal, onAnswered));
  });
  for (const id of ["question", "choices", "edited"]) byId(id).addEventListener("keydown", sendOnCtrlEnter);
}

async function ask(signal, onAnswered) {
  const question = questionOf();
  const model = byId("model").value;
  for (const id of ["said", "simulated"]) byId(id).hidden = true;
  hideSwitch();
  const reply = await post("v1/answer", model ? { ...question, model } : question, signal);
  showReply(question, reply);
  showSwitch(question, reply);
  onAnswered();
  say("ask-status", "The simulator is predicting the answer …");
  await simulate({ ...question, model: reply.model }, reply, signal);
}

function showReply({ question }, reply) {
  say("asked", question);
  say("rationale", reply.rationale || "(none)");
  say("answer", reply.answer || "(none)");
  say("answer-how", howAnswered(reply));
  showBars("probabilities", reply);
  byId("said").hidden = false;
}

function howAnswered({ model, wrote_answer, choices }) {
  if (wrote_answer) return `Written by ${model} itself, after its rationale.`;
  if (choices.length) return `${model} named none of the choices; this is the likeliest one after its rationale.`;
  return `${model} named no answer; this is how it goes on after its rationale.`;
}

async function simulate(question, { rationale, answer }, signal) {
  say("simulate-note", "");
  try {
    showSimulation(await post("v1/simulate", { ...question, rationale, answer }, signal), answer.trim());
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    byId("predictions").replaceChildren();
    say("leak", "");
    say("help", "");
    say("simulate-note", failure.message);
  }
  byId("simulated").hidden = false;
}

function showSimulation(said, answer) {
  const rows = VIEWS.map(([name, view]) => {
    const isRight = said[name] === answer;
    const mark = element("td", { className: isRight ? "right" : "wrong" }, isRight ? "✓ yes" : "✗ no");
    const seen = element("th", { scope: "row" }, view);
    return element("tr", {}, seen, element("td", { className: "text" }, said[name] || "(nothing)"), mark);
  });
  byId("predictions").replaceChildren(...rows);
  say("leak", leakSentence(said.leaking));
  byId("leak").classList.toggle("bad", said.leaking);
  say("help", helpSentence(said.sim_x === answer, said.sim_xe === answer));
}

function leakSentence(isLeaking) {
  return isLeaking
    ? "The rationale leaks: the simulator gets the student's answer from it without having seen the question."
    : "The rationale does not leak: without the question, the simulator does not get the student's answer from it.";
}

function helpSentence(withoutIt, withIt) {
  if (withIt && !withoutIt) return "With the question, it helps: only with the rationale is the answer predicted.";
  if (withoutIt && !withIt) return "With the question, it misleads: the answer is predicted only without the rationale.";
  const both = withIt ? "predicted" : "missed";
  return `With the question, it makes no difference: the answer is ${both} with the rationale and without it.`;
}

function sendOnCtrlEnter(event) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}
