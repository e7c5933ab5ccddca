// Shows what is wrong with a job at the fields of its form.
import { made } from "./words.js";

// markWrong marks the fields in a refusal's text and moves the focus to the first. It returns whether there is
// one. The text has names of properties: "git.repository: …; buildOptions.cores: …".
export function markWrong(form, words) {
  let first;
  for (const problem of words.split("; ")) {
    const [, path, why] = /^([\w.:\/~-]+): (.+)$/s.exec(problem) ?? [];
    const name = path?.split(".").find((part) => part in form.elements);
    if (!name) continue;
    const field = form.elements[name];
    mark(field, why);
    first ??= field;
  }
  if (first) show(first);
  return Boolean(first);
}

// clearMarks removes the marks.
export function clearMarks(form) {
  for (const field of form.querySelectorAll("[aria-invalid]")) clear(field);
}

function mark(field, why) {
  clear(field);
  const words = made("p", "wrong", why);
  words.id = `wrong-${field.name}`;
  field.setAttribute("aria-invalid", "true");
  field.setAttribute("aria-describedby", [...described(field), words.id].join(" "));
  field.closest("label").after(words);
  field.addEventListener("input", () => clear(field), { once: true });
}

function clear(field) {
  const id = `wrong-${field.name}`;
  document.getElementById(id)?.remove();
  field.removeAttribute("aria-invalid");
  const rest = described(field).filter((other) => other !== id);
  if (rest.length) field.setAttribute("aria-describedby", rest.join(" "));
  else field.removeAttribute("aria-describedby");
}

const described = (field) => (field.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);

// show opens the section with a field, and moves the focus to the field.
export function show(field) {
  for (let box = field.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  field.focus();
}
