// The page: the key, the versions, and the parts that ask and that watch.

import { startAsking } from "./ask.js";
import { get, KEY_NEEDED, storedKey, storeKey } from "./api.js";
import { showVersions } from "./compare.js";
import { byId, say } from "./dom.js";
import { offerExamples } from "./form.js";
import { startWatching } from "./live.js";

const RETRY_MS = 5000;
const watching = startWatching();
startAsking(watching.refresh);

document.addEventListener(KEY_NEEDED, () => {
  byId("key-box").open = true;
  say("key-note", storedKey() ? "The service does not accept this key." : "This service needs an API key.");
});

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  storeKey(byId("key").value.trim());
  say("key-note", "");
  connect();
});

async function connect() {
  try {
    const { data } = await get("v1/models");
    showVersions(data.map((card) => card.id));
    await offerExamples();
    watching.refresh();
  } catch (failure) {
    if (failure.status === 401) return byId("key").focus();
    watching.refresh();
    setTimeout(connect, RETRY_MS);
  }
}

async function warn() {
  try {
    const { untrained = {} } = await get("readyz");
    say("untrained", Object.entries(untrained).map(([name, said]) => `${name}: ${said}.`).join(" "));
  } catch {
    setTimeout(warn, RETRY_MS);
  }
}

connect();
warn();
