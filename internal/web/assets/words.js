// Texts for people, and elements for them.

export const PHASES = { wait: "Wait for a slot", pull: "Pull the image", create: "Start the container", fetch: "Fetch the source", evaluate: "Evaluate", build: "Build", push: "Push", done: "Finish" };

export function made(tag, name = "", text = "") {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.textContent = text;
  return element;
}

// arrange makes items the content of an element. Items that are already in it are not removed and added again,
// because they would lose the focus, a selection or a click.
export function arrange(element, items) {
  const wanted = new Set(items);
  for (const child of [...element.children]) if (!wanted.has(child)) child.remove();
  items.forEach((item, i) => {
    if (element.children[i] !== item) element.insertBefore(item, element.children[i] ?? null);
  });
}

export function seconds(ms) {
  const tenths = Math.floor(Math.max(0, ms) / 100), s = Math.floor(tenths / 10), m = Math.floor(s / 60);
  if (s < 10) return `${(tenths / 10).toFixed(1)} s`;
  if (s < 60) return `${s} s`;
  return m < 60 ? `${m} min ${s % 60} s` : `${Math.floor(m / 60)} h ${m % 60} min`;
}

export function size(bytes) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (bytes < 1000) return `${bytes < 10 && unit !== "B" ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} GiB`;
}
