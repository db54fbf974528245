// Keeping elements in their place.

/** Makes elements the children of another. Those that are in place stay untouched: one that moves would lose the focus. */
export function place(parent, elements) {
  for (const child of [...parent.children]) if (!elements.includes(child)) child.remove();
  elements.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
}
