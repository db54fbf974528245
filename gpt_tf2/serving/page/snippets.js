// A request as code that makes it: for a shell, and in Python with OpenAI's client.
import { get } from "./dom.js";
import { hasKey } from "./key.js";

const OURS = ["top_k", "min_p", "repetition_penalty"]; // not in OpenAI's API

/** A request { path, body } as a call of curl. */
export function asCurl({ path, body }) {
  const key = hasKey() ? ` \\\n    -H "Authorization: Bearer $GPT_TF2_API_KEY"` : "";
  const json = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl '${new URL(path, document.baseURI)}' \\\n    -H 'Content-Type: application/json'${key} \\\n    -d '${json}'\n`;
}

/** A request { path, body } as a program in Python. */
export function asPython({ path, body }) {
  const isChat = path.endsWith("chat/completions");
  const key = hasKey() ? 'os.environ["GPT_TF2_API_KEY"]' : '"none"';
  const literal = (value) => JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
  const own = Object.entries(body).filter(([name]) => !OURS.includes(name));
  const ours = Object.fromEntries(Object.entries(body).filter(([name]) => OURS.includes(name)));
  const fields = own.map(([name, value]) => `    ${name}=${literal(value)},\n`).join("");
  const extra = Object.keys(ours).length ? `    extra_body=${literal(ours)},\n` : "";
  return `${hasKey() ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${new URL("v1", document.baseURI)}", api_key=${key})
answer = client.${isChat ? "chat.completions" : "completions"}.create(
${fields}${extra})
print(answer.choices[0].${isChat ? "message.content" : "text"})
`;
}

/** Shows code, ready to be copied. */
export function showSnippet(name, code) {
  get("snippet-name").textContent = name;
  get("snippet-text").value = code;
  get("copy").textContent = "Copy";
  get("snippet").showModal();
}

/** Starts the button that copies. Without encryption a browser has no clipboard for pages, but the older command. */
export function startCopying() {
  get("copy").addEventListener("click", async () => {
    const text = get("snippet-text");
    text.select();
    if (navigator.clipboard) await navigator.clipboard.writeText(text.value);
    else document.execCommand("copy");
    get("copy").textContent = "Copied";
  });
}
