// One job: its log, its progress and its result.
import { address, ask, sentenceOf } from "./builder.js";
import { DerivationLog } from "./derivation.js";
import { Log } from "./log.js";
import { drawResults } from "./results.js";
import { showTimes } from "./times.js";
import { Tree } from "./tree.js";
import { made, PHASES, seconds, size } from "./words.js";

const byId = (id) => document.getElementById(id);
const DOING = { wait: "Waiting for a free slot", pull: "Pulling the job image", create: "Starting the container", fetch: "Fetching the source", evaluate: "Evaluating", build: "Building", push: "Pushing the results", done: "Finishing" };
const JOBS_INTERVAL = 3000; // ms between checks for other jobs
const NODES_INTERVAL = 5000; // ms between updates of the nodes
const AGAIN = 3000; // ms until a builder that did not answer is asked again

export function showJob(job) {
  const elapsed = 1000 * Number(job.dataset.elapsed ?? 0);
  const logs = new DerivationLog(job);
  const tree = new Tree((path, name) => logs.open(path, name));
  const state = { job, next: 1, phases: [], tree, progress: null, push: null, cancelled: false };
  state.began = Date.now() - elapsed; // until the first message has the time
  state.shown = performance.now() - elapsed;
  const log = new Log(job);
  const runs = "runs" in job.dataset;
  if (runs) {
    tick(state);
    letCancel(state);
  }
  watch(state, log, runs);
}

// watch reads the job's events from the first on, so that a reloaded page shows the same. If the connection is
// lost, the browser continues after the last event. A hidden page closes its connection, because browsers
// allow only a few to one server.
function watch(state, log, runs) {
  const events = new EventSource(address(`api/v1/jobs/${state.job.dataset.job}/events?lines=no&from=${state.next}`));
  const stop = () => {
    events.close();
    document.removeEventListener("visibilitychange", pause);
  };
  const pause = () => {
    if (!document.hidden) return;
    stop();
    document.addEventListener("visibilitychange", () => watch(state, log, runs), { once: true });
  };
  const end = (at) => {
    stop();
    state.ended = at;
    draw(state);
    if (runs) renew(state.job);
  };
  document.addEventListener("visibilitychange", pause);
  events.addEventListener("end", () => end(now(state))); // if the job has no last message
  events.addEventListener("error", async () => {
    if (events.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    stop();
    await sleep(AGAIN);
    if (await hasEnded(state.job.dataset.job)) end(now(state));
    else watch(state, log, runs);
  });
  events.addEventListener("log", (e) => log.grow(JSON.parse(e.data).lines));
  events.addEventListener("phase", (e) => {
    const { phase, line } = JSON.parse(e.data);
    log.begin(phase, line);
  });
  events.addEventListener("message", (e) => {
    const message = JSON.parse(e.data);
    state.next = message.seq + 1;
    if (message.seq === 1) state.began = Date.parse(message.time);
    if (message.event) take(state, message.event, Date.parse(message.time));
    draw(state);
    if (message.jobStatus === "success" || message.jobStatus === "failed") end(Date.parse(message.time));
  });
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// hasEnded asks the builder whether a job has ended. It returns false if the builder does not answer.
async function hasEnded(job) {
  try {
    const response = await ask(`api/v1/jobs/${job}`);
    return response.status === 404 || response.ok && "end" in await response.json();
  } catch {
    return false;
  }
}

function take(state, event, at) {
  switch (event.type) {
  case "phase":
    state.phases.push(event.phase);
    if ("runs" in state.job.dataset) drawWord(event.phase === "wait" ? ["○", "waiting"] : ["●", "running"]);
    if ("runs" in state.job.dataset && !state.cancelled) say(`${DOING[event.phase] ?? event.phase} …`);
    break;
  case "retry": // what was reported so far is of the job's first run
    state.phases = [];
    state.progress = state.push = null;
    state.tree.clear();
    break;
  case "queue":
    state.ahead = event.ahead;
    break;
  case "node":
    byId("on-node").hidden = false;
    byId("on-node").firstElementChild.textContent = event.name;
    break;
  case "plan":
    state.tree.plan(event);
    break;
  case "derivation":
    state.tree.take(event, at);
    break;
  case "progress":
    state.progress = event;
    break;
  case "push":
    state.push = event;
    break;
  case "results":
    drawResults(event);
    break;
  case "verdict":
    state.verdict = event;
    break;
  }
}

const say = (text) => byId("status").replaceChildren(made("p", "", text));

// draw shows the state, once for all messages since the last frame.
function draw(state) {
  state.frame ||= requestAnimationFrame(() => {
    state.frame = 0;
    drawProgress(state);
    state.tree.draw(state.ended ?? now(state), Boolean(state.ended));
    if (state.verdict) drawFacts(state.verdict);
  });
}

// drawWord shows whether the job is waiting or running.
function drawWord([mark, word]) {
  const [markShown, wordShown] = byId("verdict").children;
  markShown.textContent = mark;
  wordShown.textContent = word;
  document.title = document.title.replace(/^○ /, `${mark} `); // that of the page of a job that waited
  byId("icon").href = byId("icon").href.replace("/icon-waiting.svg", `/icon-${word}.svg`); // likewise
}

function drawProgress(state) {
  const { phases, progress, push, verdict } = state;
  byId("progress").hidden = !phases.length || Boolean(verdict);
  const now = phases.at(-1);
  byId("phases").replaceChildren(...Object.keys(PHASES).filter((phase) => phase !== "done" && phases.includes(phase)).map((phase) => {
    const item = made("li", phase === now ? "now" : "past", PHASES[phase]);
    if (phase === now) item.setAttribute("aria-current", "step");
    return item;
  }));
  const bar = byId("bar");
  const expected = (progress?.derivations.expected ?? 0) + (progress?.paths.expected ?? 0);
  if (expected) {
    bar.max = expected;
    bar.value = progress.derivations.done + progress.paths.done;
  } else if (now !== "done") {
    bar.removeAttribute("value");
  }
  const words = [];
  if (now === "wait") words.push(state.ahead ? `${state.ahead} ahead` : "no job ahead");
  if (progress?.derivations.expected) {
    const { done, running, expected, failed } = progress.derivations;
    words.push(`${done} of ${expected} built`);
    if (running) words.push(`${running} building`);
    if (failed) words.push(`${failed} failed`);
  }
  if (progress?.paths.expected) words.push(`${progress.paths.done} of ${progress.paths.expected} downloaded`);
  if (progress?.bytes.expected) words.push(`${size(progress.bytes.done)} of ${size(progress.bytes.expected)}`);
  if (push?.paths.expected) words.push(`${push.paths.done} of ${push.paths.expected} pushed, ${size(push.bytes)}`);
  byId("numbers").textContent = words.join(" · ");
}

function drawFacts(verdict) {
  const facts = [];
  for (const { phase, seconds: taken } of verdict.phases ?? []) facts.push([PHASES[phase] ?? phase, seconds(taken * 1000)]);
  if (verdict.peakMemory) facts.push(["Most memory", size(verdict.peakMemory)]);
  if (verdict.cpuSeconds) facts.push(["CPU time", seconds(verdict.cpuSeconds * 1000)]);
  if (verdict.pushed) facts.push(["Pushed", `${verdict.pushed.paths} paths, ${size(verdict.pushed.bytes)}`]);
  byId("facts").hidden = !facts.length;
  byId("facts").replaceChildren(...facts.map(([term, value]) => {
    const pair = made("div");
    pair.append(made("dt", "", term), made("dd", "", value));
    return pair;
  }));
}

// now returns the builder's time in ms, because the browser's clock can differ.
function now(state) {
  return state.began + performance.now() - state.shown;
}

// tick shows how long the job and its derivations have been running.
function tick(state) {
  const { job } = state;
  const timer = setInterval(() => {
    if (!("runs" in job.dataset)) return clearInterval(timer);
    byId("clock").textContent = seconds(1000 * Math.floor((now(state) - state.began) / 1000)).replace(".0", "");
    draw(state);
  }, 1000);
}

// renew replaces the job's header with the builder's version after the end of the job.
async function renew(job) {
  delete job.dataset.runs;
  byId("sure")?.close();
  byId("cancel")?.remove();
  let page;
  while (!(page = await pageAt(`jobs/${job.dataset.job}`, 404).catch(() => null))) await sleep(AGAIN);
  if (page.getElementById("job")) {
    const status = byId("status"), now = page.getElementById("status");
    job.querySelector(":scope > header").replaceWith(page.querySelector("#job > header"));
    byId("status").replaceWith(status); // the same element, so that screen readers read its new text
    status.className = now.className;
    status.replaceChildren(...now.childNodes);
    document.title = page.title;
    byId("icon").replaceWith(page.getElementById("icon"));
  } else {
    say("The job has ended, and is no longer kept.");
  }
  await renewJobs();
}

// pageAt returns the document at a path of the builder. accepted is a status of failed answers that are documents, too.
async function pageAt(path, accepted) {
  const response = await ask(path);
  if (!response.ok && response.status !== accepted) throw new Error(`${path}: ${response.status}`);
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  for (const name of ["href", "src", "action"]) { // else they would be relative to this page's address
    for (const element of page.querySelectorAll(`[${name}]`)) {
      element.setAttribute(name, new URL(element.getAttribute(name), response.url));
    }
  }
  return page;
}

// renewJobs reloads the list of jobs, and returns whether it did.
async function renewJobs() {
  if (byId("filters")?.contains(document.activeElement)) return false; // the filter is being used
  const list = byId("jobs"), page = await pageAt(location.href.split("#")[0]);
  const focused = list?.contains(document.activeElement) && document.activeElement.href;
  list?.replaceWith(page.getElementById("jobs"));
  if (focused) [...byId("jobs").querySelectorAll("a")].find(({ href }) => href === focused)?.focus({ preventScroll: true });
  showTimes();
  return true;
}

// watchNodes updates the list of the builder's nodes.
export function watchNodes() {
  setInterval(async () => {
    if (document.hidden) return;
    const page = await pageAt("").catch(() => null); // the builder does not answer: try again later
    for (const id of page?.getElementById("nodes") ? ["nodes-sum", "nodes-rows"] : []) byId(id).replaceWith(page.getElementById(id));
    showTimes();
  }, NODES_INTERVAL);
}

// watchForJobs shows new jobs of other clients on the page of all jobs.
export function watchForJobs() {
  let known;
  const check = async () => {
    try {
      const now = (await jobsWith("")).map(({ id, end }) => `${id} ${end}`).join();
      const isNew = known !== undefined && known !== now;
      if (!location.search) { // the list is not filtered
        const job = byId("job");
        const others = (await unended()).filter((other) => !other.startsWith(`${job?.dataset.job} `));
        if (byId("running") ? others.join() !== listedUnended() : byId("idle") && (isNew || others.length)) {
          location.reload();
          return;
        }
        if (job) showOthers(others.length > 0);
      }
      if (!isNew || await renewJobs()) known = now;
    } catch { /* the builder does not answer: try again later */ }
  };
  check();
  setInterval(() => document.hidden || check(), JOBS_INTERVAL);
}

// jobsWith returns the newest jobs that a query selects.
async function jobsWith(query) {
  const response = await ask(`api/v1/jobs${query}`);
  return (await response.json()).jobs;
}

// unended returns the newest of the running and waiting jobs, as many as the page lists, sorted.
async function unended() {
  const jobs = await jobsWith("?limit=1000&state=unended");
  return jobs.map((job) => `${job.id} ${job.started ? "running" : "waiting"}`).sort();
}

// listedUnended returns the same from the page.
function listedUnended() {
  const links = [...document.querySelectorAll("#running a")];
  return links.map((link) => `${link.pathname.split("/").pop()} ${link.querySelector(".word").textContent}`).sort().join();
}

// showOthers shows whether another job is running, besides the one on the page.
function showOthers(are) {
  const others = byId("others");
  if (others.hidden === !are) return;
  const link = made("a", "", "Show all.");
  link.href = address("");
  others.replaceChildren(...are ? ["Another job is running. ", link] : []);
  others.hidden = !are;
}

function letCancel(state) {
  const dialog = byId("sure"), button = byId("cancel");
  button.addEventListener("click", () => {
    dialog.returnValue = "";
    dialog.showModal();
  });
  dialog.addEventListener("close", async () => {
    if (dialog.returnValue !== "yes" || !("runs" in state.job.dataset)) return;
    state.cancelled = true;
    say("Cancelling the job …");
    button.disabled = true;
    const problem = await cancel(state.job.dataset.job);
    if (!problem || !("runs" in state.job.dataset)) return;
    state.cancelled = button.disabled = false;
    say(problem);
  });
}

// cancel cancels a job. It returns why that failed, or "".
async function cancel(job) {
  try {
    const response = await ask(`api/v1/jobs/${job}/cancel`, { method: "POST" });
    return response.ok ? "" : await sentenceOf(response);
  } catch {
    return "The builder does not answer: the job was not cancelled.";
  }
}
