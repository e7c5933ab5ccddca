// The script of all pages. It starts the parts for the elements that the page has.
import { letCopy } from "./copy.js";
import { showJob, watchForJobs, watchNodes } from "./job.js";
import { fillForm } from "./new.js";
import { showTimes } from "./times.js";

const job = document.getElementById("job");
const form = document.getElementById("new");
showTimes();
letCopy();
if (job) showJob(job);
if (document.getElementById("jobs")) watchForJobs();
if (document.getElementById("nodes")) watchNodes();
if (form) fillForm(form);
