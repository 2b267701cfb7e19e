// Asking the student, what the simulator makes of the answer, and the counterfactual switch.

import { post } from "./api.js";
import { byId, element, percent, say } from "./dom.js";

const EXAMPLES = {
  yes_no: { question: "Would a steel spoon sink in a bathtub full of water?" },
  true_false: { question: "A candle goes out in a closed jar because it uses up the oxygen." },
  multiple_choice: {
    question: "Why does a bicycle tyre feel harder on a hot afternoon?",
    choices: ["the air in it expands", "the rubber shrinks", "the road gets softer", "the wheel spins faster"],
  },
  open: { question: "What makes the tides rise and fall twice a day?" },
};

const VIEWS = [
  ["sim_x", "the question alone"],
  ["sim_e", "the rationale alone"],
  ["sim_xe", "question and rationale"],
];

// The question that was answered, and its reply: the form may have moved on since.
let asked = null;
// What is under way, by form.
const underWay = { ask: new AbortController(), switch: new AbortController() };

export function startAsking(onAnswered) {
  byId("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    underWay.switch.abort();
    attempt("ask", (signal) => ask(signal, onAnswered));
  });
  byId("switch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("switch", answerAfter);
  });
  for (const id of ["question", "choices", "edited"]) byId(id).addEventListener("keydown", sendOnCtrlEnter);
  for (const radio of byId("ask-form").elements.task) radio.addEventListener("change", showChoices);
  byId("example").addEventListener("click", fillExample);
  byId("restore").addEventListener("click", () => (byId("edited").value = asked.reply.rationale));
  showChoices();
}

// What is asked last counts: an earlier request of the form that is still under way is given up.
async function attempt(form, work) {
  underWay[form].abort();
  const mine = (underWay[form] = new AbortController());
  say(`${form}-note`, "");
  say(`${form}-status`, "The student is answering …");
  byId(`${form}-form`).setAttribute("aria-busy", "true");
  try {
    await work(mine.signal);
  } catch (failure) {
    if (failure.name === "AbortError") return;
    say(`${form}-note`, failure.message);
    if (failure.status === 401) byId("key").focus();
  } finally {
    if (underWay[form] === mine) {
      say(`${form}-status`, "");
      byId(`${form}-form`).removeAttribute("aria-busy");
    }
  }
}

async function ask(signal, onAnswered) {
  const question = questionOf();
  const model = byId("model").value;
  for (const id of ["said", "simulated", "switch", "switched"]) byId(id).hidden = true;
  const reply = await post("v1/answer", model ? { ...question, model } : question, signal);
  asked = { question, reply };
  showReply();
  onAnswered();
  say("ask-status", "The simulator is predicting the answer …");
  await simulate(signal);
}

function questionOf() {
  const question = { task: taskOf(), question: byId("question").value.trim() };
  const choices = byId("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  return question.task === "multiple_choice" ? { ...question, choices } : question;
}

const taskOf = () => byId("ask-form").elements.task.value;

function showReply() {
  const { question, reply } = asked;
  say("asked", question.question);
  say("rationale", reply.rationale || "(none)");
  say("answer", reply.answer || "(none)");
  say("answer-how", howAnswered(reply));
  showBars("probabilities", reply);
  byId("edited").value = reply.rationale;
  byId("said").hidden = byId("switch").hidden = false;
}

function howAnswered({ model, wrote_answer, choices }) {
  if (wrote_answer) return `Written by ${model} itself, after its rationale.`;
  if (choices.length) return `${model} named none of the choices; this is the likeliest one after its rationale.`;
  return `${model} named no answer; this is how it goes on after its rationale.`;
}

function showBars(list, { choices, probabilities, answer }) {
  byId(list).hidden = !choices.length;
  byId(list).replaceChildren(...choices.map((choice, index) => bar(choice, probabilities[index], choice === answer)));
}

function bar(choice, share, isAnswer) {
  const filled = element("span", { className: "filled" });
  filled.style.width = percent(share).replace(" ", "");
  const track = element("span", { className: "track", ariaHidden: "true" }, filled);
  const name = element("span", { className: "text" }, choice);
  const number = element("span", { className: "number" }, percent(share));
  return element("li", { className: isAnswer ? "chosen" : "" }, name, number, track);
}

async function simulate(signal) {
  const { question, reply } = asked;
  say("simulate-note", "");
  try {
    const { rationale, answer } = reply;
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

async function answerAfter(signal) {
  const { question, reply } = asked;
  const rationale = byId("edited").value.trim();
  byId("switched").hidden = true;
  const switched = await post("v1/answer", { ...question, model: reply.model, rationale }, signal);
  say("switched-answer", switched.answer || "(none)");
  say("follows", followSentence(reply, switched, rationale !== reply.rationale.trim()));
  showBars("switched-probabilities", switched);
  byId("switched").hidden = false;
}

function followSentence(before, after, isEdited) {
  const [own, other] = [`“${before.answer}”`, `“${after.answer}”`];
  if (own === other && isEdited) return `The answer stays: ${own}, as after the student's own rationale.`;
  if (own === other) return `The rationale is the student's own, and the answer stays ${own}.`;
  if (isEdited) return `The answer follows: ${own} after the student's own rationale, ${other} after this one.`;
  return `The rationale is the student's own. It wrote ${own} after it, but ${other} is likelier.`;
}

function showChoices() {
  byId("choices-field").hidden = taskOf() !== "multiple_choice";
  byId("choices").required = taskOf() === "multiple_choice";
}

function fillExample() {
  const { question, choices = [] } = EXAMPLES[taskOf()];
  byId("question").value = question;
  byId("choices").value = choices.join("\n");
}

function sendOnCtrlEnter(event) {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}
