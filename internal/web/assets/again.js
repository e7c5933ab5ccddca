// Fills the form with an earlier job, without its secrets, which the builder does not keep.
import { address, ask } from "./builder.js";
import { show } from "./mark.js";
import { made } from "./words.js";

const SECRETS = {
  gitKey: "repository's key", accessTokens: "access tokens", netrc: "netrc", apiKey: "cache's API key", signingKey: "signing key",
};

// fillAgain fills the form with the job in the page's address, and shows which secrets are missing.
export async function fillAgain(form) {
  const job = new URLSearchParams(location.search).get("job");
  if (!job) return;
  const note = document.getElementById("from");
  const link = made("a", "", job.slice(0, 8));
  link.href = address(`jobs/${encodeURIComponent(job)}`);
  note.hidden = false;
  try {
    const response = await ask(`api/v1/jobs/${encodeURIComponent(job)}`);
    if (!response.ok) throw new Error(String(response.status));
    const record = await response.json(), missing = fill(form, record);
    const words = [record.request ? "." : `. ${notKept(record)}`];
    if (missing.length) words.push(`The builder keeps no secrets. Please enter these again: ${missing.join(", ")}.`);
    note.replaceChildren("As in job ", link, words.join(" "));
  } catch {
    note.replaceChildren("The builder no longer has job ", link, ".");
  }
}

// Texts of a record are cut after 2 KiB. A command that is cut is another command.
const isCut = (command) => command.length > 1000 && command.endsWith("…");

// notKept says what is missing of a job that was too large to be kept, or is of an earlier version of the builder.
function notKept({ command }) {
  return isCut(command) ? "The builder has kept only its repository, its branch and a part of its command: please enter the command again." :
    "The builder has kept only its repository, its branch and its command.";
}

// keepLineEnds replaces the input for a text that has line ends, which an input would remove without a word: they can
// separate the words of a command, or be part of one.
function keepLineEnds(input, text) {
  if (!/[\r\n]/.test(text) || input.tagName !== "INPUT") return;
  const area = document.createElement("textarea");
  for (const { name, value } of input.attributes) if (name !== "value") area.setAttribute(name, value);
  area.rows = Math.min(10, text.split("\n").length);
  input.replaceWith(area);
}

// fill fills the form with a record, and returns the names of the missing secrets.
function fill(form, record) {
  const { git = {}, buildOptions: options = {}, nix = {}, system } = record.request ??
    { git: { repository: record.repository, branch: record.branch, noClone: !record.repository }, buildOptions: { command: isCut(record.command) ? "" : record.command } };
  const cachix = options.cachix ?? {};
  const texts = { ...git, ...options, ...cachix, system,
    substituters: (options.substituters ?? []).join("\n"), trustedPublicKeys: (options.trustedPublicKeys ?? []).join("\n"),
    accessTokens: Object.keys(nix.accessTokens ?? {}).map((host) => `${host}=`).join("\n") };
  for (const name of ["command", "extraArgs"]) keepLineEnds(form.elements[name], texts[name] ?? "");
  for (const name of ["repository", "branch", "gitUsername", "command", "cores", "maxJobs", "extraArgs", "system", "substituters", "trustedPublicKeys", "accessTokens", "target"]) {
    form.elements[name].value = texts[name] ?? "";
  }
  for (const name of ["noClone", "keep_going", "push"]) form.elements[name].checked = Boolean(texts[name]);
  for (const box of form.querySelectorAll("details")) {
    box.open = [...box.querySelectorAll("input, textarea")].some((field) => field.type === "checkbox" ? field.checked : field.value);
  }
  // Records of earlier versions do not have the names of secrets.
  const needed = { gitKey: git.requiresAuth, accessTokens: texts.accessTokens, apiKey: cachix.push };
  const missing = Object.keys(SECRETS).filter((name) => needed[name] || record.secrets?.includes(name));
  form.dispatchEvent(new Event("input")); // updates the form and the preview
  if (git.requiresAuth) form.elements.gitKey.required = true;
  if (missing.length) show(form.elements[missing[0]]);
  return missing.map((name) => SECRETS[name]);
}
