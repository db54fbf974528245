// Chat: with a model that has learned to, or about a passage.
import { stream } from "./api.js";
import { get, make, say } from "./dom.js";
import { Runs, describeSpeed } from "./runs.js";

export class Chat {
  /** model(): the description of the chosen one. settings: of sampling. models: all of them. */
  constructor(model, settings, models) {
    this.model = model;
    this.settings = settings;
    this.models = models;
    this.messages = [];
    this.runs = new Runs(get("send"), get("chat-stop"), get("chat-status"));
    get("say").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    get("message").addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    get("chat").addEventListener("keydown", (event) => event.key === "Escape" && this.runs.end());
    get("clear").addEventListener("click", () => this.clear());
    this.showModel();
  }

  /** Shows what the chosen model can do. */
  showModel() {
    const { id, chat } = this.model();
    const others = this.models.filter((model) => model.chat).map((model) => model.id);
    const fix = others.length ? `Choose ${others.join(" or ")} above.` : "No model of this server has learned to chat.";
    get("no-chat").textContent = chat ? "" : `${id} continues texts, but has not learned to chat. ${fix}`;
    get("can-chat").hidden = !chat;
    get("system-name").textContent = chat === "passage" ? "Passage, which the questions are about" : "Instructions, if you have some";
    this.clear();
  }

  clear() {
    this.runs.end();
    this.messages = [];
    get("log").replaceChildren();
    say(get("chat-status"), "");
  }

  /** The request for the reply to a message, or if there is none for the last reply. */
  request(said = get("message").value.trim()) {
    const { id, chat } = this.model();
    const system = get("system").value.trim();
    if (!chat) throw new Error(`${id} has not learned to chat.`);
    if (chat === "passage" && !system) throw new Error("Give a passage first.");
    if (!said && !this.messages.length) throw new Error("Write a message first.");
    const spoken = said ? [...this.messages, { role: "user", content: said }] : this.messages.slice(0, -1);
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...spoken];
    return { path: "v1/chat/completions", body: { model: id, messages, ...this.settings.read() } };
  }

  /** Keeps a question with its reply. Without a reply the question may be asked again. */
  keep(question, answer, said, reply) {
    if (reply.trim()) {
      this.messages.push({ role: "user", content: said }, { role: "assistant", content: reply });
    } else {
      question.remove();
      answer.remove();
      get("message").value ||= said;
    }
  }

  send() {
    const said = get("message").value.trim();
    if (!said) return get("message").focus();
    return this.runs.run("Replying…", async (signal) => {
      const began = performance.now();
      const { path, body } = this.request(said);
      const log = get("log");
      const question = addBubble(log, "user", "You", said);
      const answer = addBubble(log, "assistant", this.model().id, "");
      let reply = "";
      let tokens = 0;
      get("message").value = "";
      log.setAttribute("aria-busy", "true"); // read out once it is whole
      try {
        for await (const { choices } of stream(path, { ...body, logprobs: true }, signal)) {
          reply += choices[0].delta.content ?? "";
          tokens += choices[0].logprobs?.content.length ?? 0;
          answer.lastChild.textContent = reply;
          log.scrollTop = log.scrollHeight;
        }
      } finally {
        log.setAttribute("aria-busy", "false");
        if (question.isConnected) this.keep(question, answer, said, reply);
      }
      return reply.trim() ? describeSpeed(tokens, began) : "The model has no answer.";
    });
  }
}

function addBubble(log, role, name, text) {
  const bubble = make("div", { className: `bubble ${role}` }, make("b", {}, name), make("p", {}, text));
  log.append(bubble);
  return bubble;
}
