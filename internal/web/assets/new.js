// The form for a job, and its request.
import { fillAgain } from "./again.js";
import { address, sentenceOf } from "./builder.js";
import { clearMarks, markWrong } from "./mark.js";
import { made } from "./words.js";

const byId = (id) => document.getElementById(id);
const SECRETS = ["gitKey", "apiKey", "signingKey", "accessTokens", "netrc"];

export function fillForm(form) {
  const show = () => {
    const noClone = form.elements.noClone.checked;
    form.elements.repository.required = !noClone;
    for (const name of ["repository", "branch", "gitUsername", "gitKey"]) form.elements[name].disabled = noClone;
    byId("no-clone").hidden = !noClone;
    byId("cache").hidden = !form.elements.push.checked;
    for (const name of ["target", "apiKey"]) form.elements[name].required = form.elements.push.checked;
    byId("preview").textContent = JSON.stringify(request(form, (secret) => "•".repeat(Math.min(12, secret.length))), null, 2);
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    submit(form);
  });
  show();
  fillAgain(form);
}

// request returns the job in the form. The function secret is applied to each secret.
function request(form, secret) {
  const value = (name) => form.elements[name].disabled ? "" : form.elements[name].value.trim();
  const lines = (name) => value(name).split("\n").map((line) => line.trim()).filter(Boolean);
  const set = (into, name, what) => {
    if (what !== "" && what !== false && what?.length !== 0) into[name] = what;
  };
  const git = { noClone: form.elements.noClone.checked };
  for (const name of ["repository", "branch", "gitUsername"]) set(git, name, value(name));
  set(git, "gitKey", value("gitKey") && secret(form.elements.gitKey.value));
  set(git, "requiresAuth", Boolean(value("gitKey")));

  const options = { command: value("command") };
  for (const name of ["cores", "maxJobs"]) set(options, name, value(name) && Number(value(name)));
  set(options, "keep_going", form.elements.keep_going.checked);
  set(options, "extraArgs", value("extraArgs"));
  for (const name of ["substituters", "trustedPublicKeys"]) set(options, name, lines(name));

  const cachix = options.cachix = { push: form.elements.push.checked };
  if (cachix.push) {
    set(cachix, "target", value("target"));
    for (const name of ["apiKey", "signingKey"]) set(cachix, name, value(name) && secret(value(name)));
  }
  const job = { git, buildOptions: options };
  const nix = {};
  const tokens = lines("accessTokens").map((line) => {
    const at = line.indexOf("="); // without one, the whole line is the token
    return [line.slice(0, Math.max(at, 0)), secret(line.slice(at + 1))];
  });
  set(nix, "accessTokens", tokens.length > 0 && Object.fromEntries(tokens));
  set(nix, "netrc", value("netrc") && secret(form.elements.netrc.value));
  if (Object.keys(nix).length > 0) job.nix = nix;
  set(job, "system", value("system"));
  job.colors = true; // the page shows them
  return job;
}

// submit sends the job, which does not depend on this page, and opens the job's page.
async function submit(form) {
  byId("refusal").hidden = true;
  clearMarks(form);
  byId("submit").disabled = true;
  const body = JSON.stringify(request(form, (secret) => secret));
  const answer = await send(body);
  byId("submit").disabled = false;
  if (!answer.page) {
    refuse(form, answer);
    return;
  }
  for (const name of SECRETS) form.elements[name].value = ""; // so that the browser's button Back does not show them
  form.dispatchEvent(new Event("input"));
  location.href = address(`.${answer.page}`);
}

// send posts a job and returns the answer. If that is not from a builder that reads the job, it is made up here. It
// never reloads the page, because the form would be empty.
async function send(body) {
  try {
    const response = await fetch(address("api/v1/jobs"), { method: "POST", body });
    if (response.status === 401) return { error: "You are signed out. Sign in in another tab, and start the job again." };
    if (response.headers.get("Content-Type")?.startsWith("application/json")) return await response.json();
    return { error: await sentenceOf(response) };
  } catch {
    return { error: "The builder cannot be reached." };
  }
}

// refuse shows why the job was refused: at the wrong fields or, if there are none, at the top.
function refuse(form, last) {
  const refusal = byId("refusal");
  refusal.textContent = [last.error, last.msg].filter(Boolean).join(" ");
  refusal.hidden = false;
  const words = last.error?.startsWith("Invalid command") ? `command: ${last.msg}` : last.msg ?? "";
  if (!markWrong(form, words)) refusal.scrollIntoView({ block: "nearest" });
  if (last.jobStatus === "running") linkRunning(refusal);
}

// linkRunning adds a link to the job that a busy builder runs.
async function linkRunning(refusal) {
  const response = await fetch(address("api/v1/jobs?state=running&limit=1")).catch(() => undefined);
  const [job] = response?.ok ? (await response.json()).jobs : [];
  if (!job) return;
  const link = made("a", "", job.command);
  link.href = address(`jobs/${job.id}`);
  refusal.append(" It is ", link, ".");
}
