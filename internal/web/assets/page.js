// The page's script: what is on the page says which part of it has something to do.
import { showJob, watchForJobs } from "./job.js";
import { fillForm } from "./new.js";

const job = document.getElementById("job");
const form = document.getElementById("new");
if (job) showJob(job);
if (document.getElementById("jobs")) watchForJobs();
if (form) fillForm(form);
