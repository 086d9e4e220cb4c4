// What a page asks of a server of another origin, and what it can read of the answers: JSON and binary tensors,
// ids, trace and receipt, and what is wrong with a request. `fetch` is the browser's, or one by its rules.
const MODEL = "/v2/models/logistic";
const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

export async function asks(fetch, server) {
  const values = [0.5, -1.25, 2, 0.75];
  const tensor = { name: "X", shape: [1, 4], datatype: "FP32" };
  const json = await fetch(`${server}${MODEL}/infer`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": "from-a-page", traceparent: TRACE },
    body: JSON.stringify({ inputs: [{ ...tensor, data: values }] }),
  });
  const told = { json: await read(json) };
  told.json.outputs = JSON.parse(told.json.text).outputs;

  const head = JSON.stringify({
    inputs: [{ ...tensor, parameters: { binary_data_size: 16 } }],
    outputs: [{ name: "probabilities", parameters: { binary_data: true } }],
  });
  const binary = await fetch(`${server}${MODEL}/infer`, {
    method: "POST",
    headers: {
      "content-type": "application/octet-stream",
      "inference-header-content-length": String(head.length),
    },
    body: new Blob([head, new Float32Array(values)]),
  });
  const size = Number(binary.headers.get("inference-header-content-length"));
  const bytes = await binary.arrayBuffer();
  const numbers = binary.status === 200 ? [...new Float32Array(bytes.slice(size))] : null;
  told.binary = { status: binary.status, probabilities: numbers };

  const wrong = await fetch(`${server}${MODEL}/infer`, {
    method: "POST",
    headers: { "content-type": "application/json", "x-request-id": "a-mistake" },
    body: JSON.stringify({ inputs: [{ ...tensor, data: [1] }] }),
  });
  told.wrong = await read(wrong);
  told.missing = await read(await fetch(`${server}/v2/models/no_such_model`));
  return told;
}

async function read(answer) {
  return {
    status: answer.status,
    id: answer.headers.get("x-request-id"),
    digest: answer.headers.get("x-slipway-model-digest"),
    trace: answer.headers.get("traceparent"),
    server: answer.headers.get("server"), // no page may read a header that is not exposed to it
    text: await answer.text(),
  };
}
