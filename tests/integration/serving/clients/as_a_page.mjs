// A page's requests with the fetch of Node, which has no origin of its own and so leaves a browser's rules to
// the caller: they are kept here. Arguments: the page's origin, the server. Prints what page.html tells.
import { asks } from "./asks.mjs";

const [origin, server] = process.argv.slice(2);
const names = (text) => new Set((text ?? "").split(",").map((name) => name.trim().toLowerCase()));
const isFor = (answer) => [origin, "*"].includes(answer.headers.get("access-control-allow-origin"));

/** As a browser fetches for a page: the preflight, where one is due, and only the headers that are exposed. */
async function guarded(url, { method = "GET", headers = {}, body } = {}) {
  if (method !== "GET" || Object.keys(headers).length) {
    const asked = { "access-control-request-method": method, "access-control-request-headers": Object.keys(headers) };
    const permission = await fetch(url, { method: "OPTIONS", headers: { origin, ...asked } });
    const allowed = names(permission.headers.get("access-control-allow-headers"));
    const granted =
      Object.keys(headers).every((name) => allowed.has(name)) &&
      names(permission.headers.get("access-control-allow-methods")).has(method.toLowerCase());
    if (!permission.ok || !isFor(permission) || !granted) throw new TypeError("refused by the preflight");
  }
  const answer = await fetch(url, { method, headers: { origin, ...headers }, body });
  if (!isFor(answer)) throw new TypeError("the answer is not for this origin");
  const exposed = names(answer.headers.get("access-control-expose-headers"));
  return {
    status: answer.status,
    headers: { get: (name) => (exposed.has(name) ? answer.headers.get(name) : null) },
    text: () => answer.text(),
    arrayBuffer: () => answer.arrayBuffer(),
  };
}

let told;
try {
  told = await asks(guarded, server);
} catch (error) {
  told = { error: String(error) };
}
console.log(JSON.stringify(told));
