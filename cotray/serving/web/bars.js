// The probability of each choice, as bars.

import { byId, element, percent } from "./dom.js";

export function showBars(list, { choices, probabilities, answer }) {
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
