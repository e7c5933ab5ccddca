// The script of all pages. It starts the parts for the elements that the page has.
import { correctAddress } from "./builder.js";
import { letCopy } from "./copy.js";
import { showJob, watchForJobs, watchNodes } from "./job.js";
import { keepLine } from "./login.js";
import { fillForm } from "./new.js";
import { showTimes } from "./times.js";

const job = document.getElementById("job");
const form = document.getElementById("new");
const command = document.getElementById("command");
const next = document.querySelector(".login [name=next]");
showTimes();
letCopy();
if (job) showJob(job);
if (document.getElementById("jobs")) watchForJobs();
if (document.getElementById("nodes")) watchNodes();
if (form) fillForm(form);
if (next) keepLine(next);
if (command) correctAddress(command);
