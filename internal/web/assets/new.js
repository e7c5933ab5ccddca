// The form for a job: what it says as a request, and the connection that carries it.
import { fillAgain } from "./again.js";
import { clearMarks, markWrong } from "./mark.js";
import { made } from "./words.js";

const byId = (id) => document.getElementById(id);
const SECRETS = ["gitKey", "apiKey", "signingKey", "accessTokens", "netrc"];
const KEEP_OPEN = "Keep this tab open: closing or reloading it cancels the job. The job's own page may be closed and reloaded as you like.";

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
  byId("again").addEventListener("click", () => {
    byId("sent").hidden = true;
    form.hidden = false;
    form.elements.command.focus();
  });
  show();
  fillAgain(form);
}

// request is the job that the form describes. Each secret becomes what secret makes of it.
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
    const at = line.indexOf("="); // of none, all of it is the token
    return [line.slice(0, Math.max(at, 0)), secret(line.slice(at + 1))];
  });
  set(nix, "accessTokens", tokens.length > 0 && Object.fromEntries(tokens));
  set(nix, "netrc", value("netrc") && secret(form.elements.netrc.value));
  if (Object.keys(nix).length > 0) job.nix = nix;
  return job;
}

// submit sends the job. Its connection is the job's life, so this page keeps it and leaves the
// watching to another one.
async function submit(form) {
  const tab = window.open("", "_blank"); // now: later, it is not the person's own doing
  byId("refusal").hidden = true;
  clearMarks(form);
  byId("submit").disabled = true;
  const before = await newestJob().catch(() => undefined); // of a builder that is away, the socket tells
  const url = new URL("/api/v1/build", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const socket = new WebSocket(url);
  let began = false, last;

  socket.addEventListener("open", () => socket.send(JSON.stringify(request(form, (secret) => secret))));
  socket.addEventListener("message", ({ data }) => {
    if (data.startsWith('{"stdout"')) return;
    const message = JSON.parse(data);
    if (message.jobStatus === "starting") {
      began = true;
      for (const name of SECRETS) form.elements[name].value = "";
      addEventListener("beforeunload", stay);
      start(form, tab, before);
    } else if (message.jobStatus !== "running" || !began) {
      last = message;
    }
  });
  socket.addEventListener("close", () => {
    removeEventListener("beforeunload", stay);
    byId("submit").disabled = false;
    if (began) {
      end(last);
      return;
    }
    tab?.close();
    refuse(form, last);
  });
}

// stay has the browser ask before it leaves a page that a job depends on.
const stay = (e) => e.preventDefault();

async function start(form, tab, before) {
  form.hidden = true;
  form.dispatchEvent(new Event("input")); // the preview forgets the secrets, too
  byId("sent").hidden = false;
  byId("again").hidden = true;
  const word = byId("sent-word");
  word.className = "badge running";
  word.textContent = "running";
  byId("sent-title").textContent = "The job runs, and this tab holds its connection";
  byId("sent-title").focus();
  byId("sent-text").textContent = KEEP_OPEN;
  let job = before;
  for (let tries = 0; job === before && tries < 50; tries++) {
    job = await newestJob().catch(() => before);
    if (job === before) await new Promise((resolve) => setTimeout(resolve, 100));
  }
  byId("sent-link").href = job === before ? "/" : `/jobs/${job}`;
  if (tab) tab.location = byId("sent-link").href;
}

async function newestJob() {
  const response = await fetch("/api/v1/jobs?limit=1");
  return (await response.json()).jobs[0]?.id;
}

function end(last) {
  const good = last?.jobStatus === "success";
  const word = byId("sent-word");
  word.className = good ? "badge good" : "badge bad";
  word.textContent = good ? "succeeded" : "failed";
  byId("sent-title").textContent = good ? "The job has succeeded" : "The job has failed";
  byId("sent-text").textContent = good ? "This tab may be closed." :
    [last?.error ?? "The connection to the builder was lost.", last?.msg].filter(Boolean).join(" ");
  byId("again").hidden = false;
}

// refuse says why the job was not taken: at the fields that are wrong, or else at the top.
function refuse(form, last) {
  const refusal = byId("refusal");
  refusal.textContent = [last?.error ?? "The builder cannot be reached, or asks for its token: load this page again.", last?.msg].filter(Boolean).join(" ");
  refusal.hidden = false;
  const words = last?.error?.startsWith("Invalid command") ? `command: ${last.msg}` : last?.msg ?? "";
  if (!markWrong(form, words)) refusal.scrollIntoView({ block: "nearest" });
  if (last?.jobStatus === "running") linkRunning(refusal);
}

// linkRunning links the job that a busy builder runs.
async function linkRunning(refusal) {
  const response = await fetch("/api/v1/jobs?state=running&limit=1");
  const [job] = (await response.json()).jobs;
  if (!job) return;
  const link = made("a", "", job.command);
  link.href = `/jobs/${job.id}`;
  refusal.append(" It is ", link, ".");
}
