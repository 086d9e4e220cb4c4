// fetch, as a page's script uses it: JSON, and binary tensors in a typed array.
// Arguments: URL, model, input name, and the values of one row.
const [url, model, name, ...texts] = process.argv.slice(2);
const values = texts.map(Number);
const path = `${url}/v2/models/${model}/infer`;

const json = await fetch(path, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({
    inputs: [{ name, shape: [1, values.length], datatype: "FP32", data: values }],
  }),
});
const answer = await json.json();

const tensor = new Float32Array(values);
const head = new TextEncoder().encode(
  JSON.stringify({
    inputs: [
      {
        name,
        shape: [1, values.length],
        datatype: "FP32",
        parameters: { binary_data_size: tensor.byteLength },
      },
    ],
    outputs: [{ name: "probabilities", parameters: { binary_data: true } }],
  }),
);
const binary = await fetch(path, {
  method: "POST",
  headers: {
    "content-type": "application/octet-stream",
    "inference-header-content-length": String(head.length),
  },
  body: new Blob([head, tensor]),
});
const length = Number(binary.headers.get("inference-header-content-length"));
const content = await binary.arrayBuffer();
const missing = await fetch(`${url}/v2/models/no_such_model`);
console.log(
  JSON.stringify({
    json: Object.fromEntries(answer.outputs.map((output) => [output.name, output.data])),
    binary: Array.from(new Float32Array(content.slice(length))),
    missing: [missing.status, (await missing.json()).error],
  }),
);
