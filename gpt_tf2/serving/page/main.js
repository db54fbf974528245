// Starts the page: the models, the tabs, and what is shared between them.
import { listModels } from "./api.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { get, make, say } from "./dom.js";
import { Settings } from "./settings.js";
import { asCurl, asPython, showSnippet, startCopying } from "./snippets.js";
import { startTabs } from "./tabs.js";
import { Write } from "./write.js";

const NARROW = matchMedia("(max-width: 820px)");

async function start() {
  const models = await listModels();
  const chooser = get("model");
  chooser.append(...models.map(({ id }) => make("option", {}, id)));
  const model = () => models.find(({ id }) => id === chooser.value);
  const settings = new Settings(get("settings"), "setting");
  get("sampling").open = !NARROW.matches;
  const parts = { write: new Write(() => chooser.value, settings), chat: new Chat(model, settings, models) };
  new Compare(models);
  chooser.addEventListener("change", () => parts.chat.showModel());

  let shown = "write";
  startTabs((name) => {
    shown = name;
    document.body.dataset.tab = name;
  });
  startCopying();
  for (const [id, name, write] of [["as-curl", "As curl", asCurl], ["as-python", "As Python", asPython]]) {
    get(id).addEventListener("click", async () => {
      try {
        showSnippet(name, write(await parts[shown].request()));
      } catch (error) {
        say(get(`${shown}-status`), error.message, true);
      }
    });
  }
  document.body.dataset.ready = "";
}

start().catch((error) => say(get("write-status"), error.message, true));
