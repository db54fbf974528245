// The server's API: requests, and answers as a stream of events.
import { askForKey, keyHeaders } from "./key.js";

const STREAM = { stream: true, stream_options: { include_usage: true } };

/** The models: their `id`, the `max_model_len` in tokens, and how they `chat`: "messages", "passage" or null. */
export async function listModels() {
  return (await (await send("v1/models")).json()).data;
}

/** A text's `tokens` by their ids, and the model's `max_model_len`. */
export async function tokenize(model, prompt, signal) {
  return (await send("tokenize", { body: JSON.stringify({ model, prompt }), method: "POST", signal })).json();
}

/** Yields the chunks of a streamed answer: `choice`, or at the end the number of `tokens`. Throws an Error with the server's message; aborting ends it quietly. */
export async function* stream(path, body, signal) {
  try {
    const answer = await send(path, { body: JSON.stringify({ ...body, ...STREAM }), method: "POST", signal });
    for await (const data of readEvents(answer.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield { choice: chunk.choices[0], tokens: chunk.usage?.completion_tokens };
    }
    throw new Error("the server cut the answer off");
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  }
}

/** The answer to a request. Asks for the key if the server wants one. Throws an Error with the server's message. */
export async function send(path, options = {}) {
  for (;;) {
    const headers = { "Content-Type": "application/json", ...keyHeaders() };
    const answer = await fetch(path, { ...options, headers }).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the server does not answer");
    });
    if (answer.ok) return answer;
    if (answer.status !== 401) throw new Error(await readError(answer));
    await askForKey();
  }
}

async function readError(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `the server answered with status ${answer.status}`;
  }
}

/** Yields the data of server-sent events. */
async function* readEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield event.replace(/^data: /, "");
  }
}
