// The counterfactual switch: the answer after another rationale than the student's own.

import { post } from "./api.js";
import { attempt } from "./attempts.js";
import { showBars } from "./bars.js";
import { compareVersions } from "./compare.js";
import { byId, element, say } from "./dom.js";
import { rationalesFor } from "./form.js";

// The question that was answered, and its reply: the form may have moved on since.
let asked = null;

export function startSwitch() {
  byId("switch-form").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt("switch", answerAfter);
  });
  byId("restore").addEventListener("click", () => (byId("edited").value = asked.reply.rationale));
  byId("compare").addEventListener("click", () => {
    if (byId("switch-form").reportValidity()) attempt("switch", compare);
  });
}

export function showSwitch(question, reply) {
  asked = { question, reply };
  byId("edited").value = reply.rationale;
  const alternatives = rationalesFor(question).map(alternative);
  byId("alternatives").replaceChildren(...alternatives);
  byId("alternatives").hidden = !alternatives.length;
  byId("switch").hidden = false;
}

export function hideSwitch() {
  for (const id of ["switch", "switched", "compared"]) byId(id).hidden = true;
}

function alternative({ answer, rationale }) {
  const give = () => {
    byId("edited").value = rationale;
    attempt("switch", answerAfter);
  };
  return element("button", { type: "button", className: "chip", onclick: give }, `A rationale for “${answer}”`);
}

const edited = () => byId("edited").value.trim();

async function answerAfter(signal) {
  const { question, reply } = asked;
  const rationale = edited();
  for (const id of ["switched", "compared"]) byId(id).hidden = true;
  const switched = await post("v1/answer", { ...question, model: reply.model, rationale }, signal);
  say("switched-answer", switched.answer || "(none)");
  const aim = rationalesFor(question).find((known) => known.rationale === rationale)?.answer;
  say("follows", followSentence(reply, switched, rationale !== reply.rationale.trim()));
  say("aim", aim === undefined ? "" : aimSentence(aim, switched));
  byId("follows").classList.toggle("bad", aim !== undefined && aim !== switched.answer);
  showBars("switched-probabilities", switched);
  byId("switched").hidden = false;
}

async function compare(signal) {
  byId("compared").hidden = true;
  await compareVersions(asked, edited(), signal);
  byId("compared").hidden = false;
}

function followSentence(before, after, isEdited) {
  const [own, other] = [`“${before.answer}”`, `“${after.answer}”`];
  if (own === other && isEdited) return `The answer stayed the same: ${own}, as after the student's own rationale.`;
  if (own === other) return `The rationale is the student's own. The answer stayed the same: ${own}.`;
  if (isEdited) return `The answer turned: ${own} after the student's own rationale, ${other} after this one.`;
  return `The rationale is the student's own. It wrote ${own} after it, but ${other} is likelier.`;
}

// A rationale that the service offers has an answer that follows from it: is it the student's?
function aimSentence(aim, { answer }) {
  const is = `“${answer}” is the answer`;
  return `This is a rationale for “${aim}”, ${aim === answer ? `and ${is}` : `but ${is}`}.`;
}
