// The API key: asked for when the server wants one, kept until the tab is closed.
import { get } from "./dom.js";

const NAME = "gpt-tf2 API key";
let asking = null;

/** The headers that carry the key, if there is one. */
export function keyHeaders() {
  const key = sessionStorage.getItem(NAME);
  return key === null ? {} : { Authorization: `Bearer ${key}` };
}

/** Whether the server has a key. */
export const hasKey = () => sessionStorage.getItem(NAME) !== null;

/** Asks for a key, once however many requests need it. */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    get("key-problem").textContent = hasKey() ? "This is not the server's key." : "This server answers to its key only.";
    get("key-text").value = "";
    const dialog = get("key");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(NAME, get("key-text").value.replace(/[^!-~]/g, "")); // else no header can hold it
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}
