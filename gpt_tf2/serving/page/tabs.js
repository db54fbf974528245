// Tabs as screen readers know them: arrow keys move between them, and the address names the one that is shown.

/** Starts the tabs. `show` is called with the name of the one that is shown. */
export function startTabs(show) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const nameOf = (tab) => tab.getAttribute("aria-controls");

  function select(name) {
    for (const tab of tabs) {
      const isShown = nameOf(tab) === name;
      tab.setAttribute("aria-selected", isShown);
      tab.tabIndex = isShown ? 0 : -1;
      document.getElementById(nameOf(tab)).hidden = !isShown;
    }
    show(name);
  }

  const read = () => select(tabs.map(nameOf).find((name) => location.hash === `#/${name}`) ?? nameOf(tabs[0]));
  tabs.forEach((tab, index) => {
    tab.addEventListener("click", () => (location.hash = `/${nameOf(tab)}`));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(index + step + tabs.length) % tabs.length];
      next.focus();
      next.click();
    });
  });
  addEventListener("hashchange", read);
  read();
}
