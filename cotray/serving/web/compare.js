// All versions side by side: what each answers after a rationale of its own, and what after the given one.

import { post } from "./api.js";
import { byId, element } from "./dom.js";

let versions = [];

export function showVersions(names) {
  versions = names;
  const drawn = byId("model").options[0];
  byId("model").replaceChildren(drawn, ...names.map((name) => element("option", { value: name }, name)));
  for (const id of ["model-field", "compare"]) byId(id).hidden = names.length < 2;
}

export async function compareVersions({ question, reply }, rationale, signal) {
  const rows = versions.map(async (model) => {
    const own = model === reply.model ? reply : await post("v1/answer", { ...question, model }, signal);
    const after = await post("v1/answer", { ...question, model, rationale }, signal);
    return row(model, own.answer, after.answer);
  });
  byId("versions-compared").replaceChildren(...(await Promise.all(rows)));
}

function row(model, own, after) {
  const name = element("th", { scope: "row", className: "text name" }, model);
  const answers = [own, after].map((answer) => element("td", { className: "text" }, answer || "(none)"));
  const seen = own === after ? "stayed the same" : "turned";
  return element("tr", {}, name, ...answers, element("td", { className: own === after ? "" : "turned" }, seen));
}
