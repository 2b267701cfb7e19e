// Requests to the service. Paths are relative, so that the page also works behind a path prefix.

const STORED_KEY = "cotray-api-key";
export const KEY_NEEDED = "key-needed";

export class Failure extends Error {
  constructor(message, status = 0, retryAfterS = 0) {
    super(retryAfterS ? `${message}. Wait ${retryAfterS} s.` : `${message}.`);
    Object.assign(this, { status, retryAfterS });
  }
}

export const storedKey = () => sessionStorage.getItem(STORED_KEY) ?? "";
export const storeKey = (key) => sessionStorage.setItem(STORED_KEY, key);

export const get = (path, signal) => request(path, { signal });

export function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return request(path, { method: "POST", body: JSON.stringify(body), headers, signal });
}

async function request(path, { headers = {}, ...options }) {
  const key = storedKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { headers, ...options }).catch((problem) => {
    throw problem.name === "AbortError" ? problem : new Failure("The service cannot be reached");
  });
  if (response.ok) return response.json();
  throw await failureOf(response);
}

async function failureOf(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message || `The service answered ${response.status}`;
  if (response.status === 401) document.dispatchEvent(new Event(KEY_NEEDED));
  const sentence = message[0].toUpperCase() + message.slice(1).replace(/\.$/, "");
  return new Failure(sentence, response.status, Number(response.headers.get("Retry-After")));
}
