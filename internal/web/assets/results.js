// The results of a job, and how to download them.
import { made, size } from "./words.js";

// drawResults shows the event with the results.
export function drawResults({ results, pushed, target, get }) {
  const parts = [];
  if (results.length) {
    const list = made("ul");
    list.setAttribute("role", "list");
    for (const { installable, paths } of results) {
      for (const path of paths) {
        const item = made("li");
        item.append(made("code", "", path), copier(path, "the path"));
        if (installable) item.append(made("span", "quiet", installable));
        list.append(item);
      }
    }
    const box = made("div", "paths");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Paths");
    box.append(list);
    parts.push(box);
  }
  if (pushed && target) parts.push(made("p", "quiet", `${pushed.paths} ${pushed.paths === 1 ? "path" : "paths"}, ${size(pushed.bytes)}, pushed to ${target}`));
  if (get) {
    const line = made("p", "get");
    line.append(made("code", "", get), copier(get, "the command that gets it"));
    parts.push(line);
  }
  const section = document.getElementById("results");
  section.hidden = !parts.length;
  section.replaceChildren(...parts);
}

function copier(text, what) {
  const button = made("button", "copy");
  button.type = "button";
  button.dataset.copy = text;
  button.setAttribute("aria-label", `Copy ${what}`);
  return button;
}
