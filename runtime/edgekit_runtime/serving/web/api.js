// The server's endpoints: requests with the key, answers as they stream, errors in plain words.

const KEY = "edgekit-key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** What went wrong, for a person. `status` is 0 where no answer came. */
export class ServerError extends Error {
  constructor(message, { status = 0, code = "" } = {}) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

const UNREACHABLE =
  "The server does not answer. Is it still running? Start it again with “edgekit serve”.";
const BROKEN = "The connection broke off, so the answer is not complete.";

// What to do, behind what the server says.
const ADVICE = {
  context_length_exceeded: "Start a new chat, or shorten the message.",
  model_not_found: "It may have been unloaded. Choose another adapter.",
  timeout: "Ask for fewer tokens, or start the server with a longer --request-timeout.",
  shutting_down: "Start it again to go on.",
};

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(UNREACHABLE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const body = await response.json().catch(() => null);
  const wait = response.headers.get("retry-after");
  return told(body?.error, response.status, wait);
}

function told(error, status, wait) {
  const code = error?.code ?? "";
  const message = error?.message ?? `The server refused, with status ${status} and no reason.`;
  const advice = wait ? `Try again in ${wait} s.` : ADVICE[code];
  return new ServerError(sentence(message, advice), { status, code });
}

function sentence(message, advice) {
  const first = message.charAt(0).toUpperCase() + message.slice(1);
  const ended = /[.!?]$/.test(first) ? first : `${first}.`;
  return advice ? `${ended}\n${advice}` : ended;
}

/** The base and every adapter, as /v1/models lists them. */
export async function listModels() {
  return (await (await request("/v1/models")).json()).data;
}

/** Prometheus' samples without labels, by name. */
export async function readMetrics() {
  const text = await (await request("/metrics")).text();
  const samples = text.matchAll(/^(\w+) (\S+)$/gm);
  return Object.fromEntries(Array.from(samples, ([, name, value]) => [name, Number(value)]));
}

/**
 * Ask for an answer; yield {text, model} piece by piece, the model being who answers.
 *
 * Returns {finishReason, usage, timings} at the end. An abort of the signal raises AbortError.
 */
export async function* streamChat(fields, signal) {
  const body = JSON.stringify({ ...fields, stream: true, stream_options: { include_usage: true } });
  const headers = { "content-type": "application/json" };
  const response = await request("/v1/chat/completions", { method: "POST", headers, body, signal });
  const end = { finishReason: null, usage: null, timings: null };
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return end;
    const chunk = JSON.parse(data);
    if (chunk.error) throw told(chunk.error, 200);
    if (chunk.usage) Object.assign(end, { usage: chunk.usage, timings: chunk.timings });
    const [choice] = chunk.choices;
    if (choice?.finish_reason) end.finishReason = choice.finish_reason;
    if (choice?.delta.content) yield { text: choice.delta.content, model: chunk.model };
  }
  throw new ServerError(BROKEN);
}

/** The data of server-sent events; ours are one line each. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data: ")) yield line.slice(6);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(BROKEN);
  } finally {
    reader.cancel().catch(() => {});
  }
}
