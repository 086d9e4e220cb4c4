// What a browser does for a page that posts JSON to another origin, with the fetch of Node, which has no
// origin of its own and so leaves these rules to the caller. Arguments: the page's origin, the server, and the
// body. Prints what page.html tells.
const [origin, server, body] = process.argv.slice(2);
const url = `${server}/v2/models/logistic/infer`;
const names = (text) => new Set((text ?? "").split(",").map((name) => name.trim().toLowerCase()));

async function ask() {
  const permission = await fetch(url, {
    method: "OPTIONS",
    headers: {
      origin,
      "access-control-request-method": "POST",
      "access-control-request-headers": "content-type,x-request-id",
    },
  });
  const allows = (answer) => [origin, "*"].includes(answer.headers.get("access-control-allow-origin"));
  const headers = names(permission.headers.get("access-control-allow-headers"));
  const methods = names(permission.headers.get("access-control-allow-methods"));
  const granted = headers.has("content-type") && headers.has("x-request-id") && methods.has("post");
  if (!permission.ok || !allows(permission) || !granted) return { error: "refused by the preflight" };
  const answer = await fetch(url, {
    method: "POST",
    headers: { origin, "content-type": "application/json", "x-request-id": "from-a-page" },
    body,
  });
  if (!allows(answer)) return { error: "the answer is not for this origin" };
  const readable = names(answer.headers.get("access-control-expose-headers"));
  const read = (name) => (readable.has(name) ? answer.headers.get(name) : null);
  return {
    status: answer.status,
    id: read("x-request-id"),
    digest: read("x-slipway-model-digest"),
    outputs: (await answer.json()).outputs,
  };
}

console.log(JSON.stringify(await ask()));
