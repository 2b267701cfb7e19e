"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const NAMES = ["grammaticality", "new_info", "supports_answer"];
const STORAGE = `criteria-${data.form}`;
const note = document.getElementById("note");
const answers = stored();

function stored() {
  try {
    return JSON.parse(localStorage.getItem(STORAGE)) ?? {};
  } catch {
    return {};
  }
}

function say(text, isGood = false) {
  note.textContent = text;
  note.classList.toggle("good", isGood);
}

/** The questions of an item that are to be answered: the third only where there is something new. */
function asked(id) {
  return answers[id]?.new_info === "no" ? NAMES.slice(0, 2) : NAMES;
}

function isDone(id) {
  return asked(id).every((name) => answers[id]?.[name]);
}

function card(item, index) {
  const element = document.getElementById("card").content.cloneNode(true).firstElementChild;
  const [question, choices, answer, rationale] = item.shown;
  element.dataset.id = item.item;
  element.querySelector("h2").textContent = `${index + 1} of ${data.items.length}`;
  element.querySelector(".question").textContent = question;
  element.querySelector(".choices").textContent = choices.length ? `Choices: ${choices.join(" / ")}` : "";
  element.querySelector(".answer span").textContent = answer;
  element.querySelector("blockquote").textContent = rationale;
  for (const radio of element.querySelectorAll("input")) {
    radio.name = `${item.item}-${radio.closest("fieldset").dataset.name}`;
  }
  return element;
}

/** Show what is answered, and what is not asked. */
function show(element) {
  const id = element.dataset.id;
  for (const fieldset of element.querySelectorAll("fieldset")) {
    const name = fieldset.dataset.name;
    fieldset.disabled = !asked(id).includes(name);
    for (const radio of fieldset.querySelectorAll("input")) radio.checked = answers[id]?.[name] === radio.value;
  }
  element.classList.toggle("done", isDone(id));
}

function showProgress() {
  const done = data.items.filter((item) => isDone(item.item)).length;
  document.getElementById("progress").textContent = `${done} of ${data.items.length} rated`;
  document.getElementById("meter").value = done;
}

function answer(fieldset, value) {
  const element = fieldset.closest(".card");
  const given = (answers[element.dataset.id] ??= {});
  given[fieldset.dataset.name] = value;
  if (given.new_info === "no") delete given.supports_answer;
  try {
    localStorage.setItem(STORAGE, JSON.stringify(answers));
    say("");
  } catch {
    say("This browser does not keep your answers: save the CSV before you close the page.");
  }
  show(element);
  showProgress();
}

function focusOn(fieldset) {
  fieldset.querySelector("input:checked, input").focus();
  fieldset.closest(".card").scrollIntoView({ block: "nearest" });
}

function openQuestion() {
  const fieldsets = [...document.querySelectorAll("#items fieldset:enabled")];
  return fieldsets.find((fieldset) => !fieldset.querySelector(":checked"));
}

function csv() {
  const quoted = (text) => `"${String(text ?? "").replaceAll('"', '""')}"`;
  const rows = data.items.map((item) => data.columns.map((name) => item[name] ?? answers[item.item]?.[name]));
  return [data.columns, ...rows].map((row) => row.map(quoted).join(",") + "\r\n").join("");
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob(["\ufeff", csv()], { type: "text/csv" }));
  link.download = data.file;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  const open = data.items.filter((item) => !isDone(item.item)).length;
  if (open) say(`Saved, but ${open} explanations are still open: the file cannot be used before they are rated.`);
  else say(`Saved as ${data.file}. Please send it back.`, true);
}

document.getElementById("items").append(...data.items.map(card));
document.querySelectorAll(".card").forEach(show);
showProgress();
document.getElementById("items").addEventListener("change", (event) => {
  answer(event.target.closest("fieldset"), event.target.value);
});
document.addEventListener("keydown", (event) => {
  const value = { y: "yes", n: "no" }[event.key.toLowerCase()];
  const fieldset = document.activeElement.closest("#items fieldset");
  if (!value || !fieldset || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  answer(fieldset, value);
  const fieldsets = [...document.querySelectorAll("#items fieldset:enabled")];
  const next = fieldsets[fieldsets.indexOf(fieldset) + 1];
  if (next) focusOn(next);
});
document.getElementById("next").addEventListener("click", () => {
  const open = openQuestion();
  if (open) focusOn(open);
  else say("All are rated: save the CSV.", true);
});
document.getElementById("save").addEventListener("click", save);
