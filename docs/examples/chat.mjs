// Chat with a bundle from JavaScript, through `edgekit serve`; nothing to install.
//
//     edgekit serve BUNDLE
//     node chat.mjs http://127.0.0.1:8080/v1 demo:tone "We won the cup!"

const [base, model, text] = process.argv.slice(2);

const response = await fetch(`${base}/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model, messages: [{ role: "user", content: text }], stream: true }),
});
if (!response.ok) {
  console.error((await response.json()).error.message);
  process.exit(1);
}

// Server-sent events: lines that begin with "data: ", the last one is [DONE].
let rest = "";
for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const line of lines) {
    if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
    const { choices } = JSON.parse(line.slice(6));
    process.stdout.write(choices[0]?.delta.content ?? "");
  }
}
process.stdout.write("\n");
