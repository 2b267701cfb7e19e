// The form of a question, and what fills it: an example of each format, or the questions that the service offers.

import { get } from "./api.js";
import { byId, element } from "./dom.js";

const EXAMPLES = {
  yes_no: { question: "Would a steel spoon sink in a bathtub full of water?" },
  true_false: { question: "A candle goes out in a closed jar because it uses up the oxygen." },
  multiple_choice: {
    question: "Why does a bicycle tyre feel harder on a hot afternoon?",
    choices: ["the air in it expands", "the rubber shrinks", "the road gets softer", "the wheel spins faster"],
  },
  open: { question: "What makes the tides rise and fall twice a day?" },
};

// Of the service: questions of the world that its students have learned, or none.
let offered = [];

export function startForm() {
  for (const radio of byId("ask-form").elements.task) radio.addEventListener("change", showChoices);
  byId("example").addEventListener("click", () => fill(EXAMPLES[taskOf()]));
  showChoices();
}

export async function offerExamples() {
  offered = (await get("v1/examples")).examples;
  byId("offered").replaceChildren(...offered.map((example) => element("li", {}, chip(example))));
  byId("offered-field").hidden = !offered.length;
  byId("example").hidden = offered.length > 0;
}

// A rationale for each answer to an offered question; none to any other.
export function rationalesFor({ question, task }) {
  return offered.find((example) => example.question === question && example.task === task)?.rationales ?? [];
}

export function questionOf() {
  const question = { task: taskOf(), question: byId("question").value.trim() };
  const choices = byId("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  return question.task === "multiple_choice" ? { ...question, choices } : question;
}

const taskOf = () => byId("ask-form").elements.task.value;

function chip(example) {
  const fillIn = () => {
    byId("ask-form").elements.task.value = example.task;
    showChoices();
    fill(example);
  };
  return element("button", { type: "button", className: "chip", onclick: fillIn }, example.question);
}

function fill({ question, choices = [] }) {
  byId("question").value = question;
  byId("choices").value = choices.join("\n");
}

function showChoices() {
  byId("choices-field").hidden = taskOf() !== "multiple_choice";
  byId("choices").required = taskOf() === "multiple_choice";
}
