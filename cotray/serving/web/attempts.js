// What a form has under way: what is asked last counts, and an earlier request of it is given up.

import { byId, say } from "./dom.js";

const underWay = { ask: new AbortController(), switch: new AbortController() };

export const giveUp = (form) => underWay[form].abort();

export async function attempt(form, work) {
  giveUp(form);
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
