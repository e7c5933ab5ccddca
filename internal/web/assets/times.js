// Times for people: in the browser's time zone, and how long ago.

const two = (n) => String(n).padStart(2, "0");
const AGAIN = 20000; // ms between updates

const dayOf = (date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;

// localTime returns the local time of day, to the second.
export function localTime(ms) {
  const date = new Date(ms);
  return [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
}

// utc returns a time in UTC, to the second.
export const utc = (ms) => `${new Date(ms).toISOString().slice(0, 19).replace("T", " ")} UTC`;

// local returns a local time to the minute, with the date unless it is today.
export function local(ms, now = Date.now()) {
  const date = new Date(ms), time = localTime(ms).slice(0, 5);
  return dayOf(date) === dayOf(new Date(now)) ? time : `${dayOf(date)} ${time}`;
}

const UNITS = [["day", 86400], ["hour", 3600], ["minute", 60]];

// ago returns how long ago a time was, in words.
export function ago(ms, now = Date.now()) {
  const seconds = Math.max(0, now - ms) / 1000;
  for (const [unit, length] of UNITS) {
    const n = Math.floor(seconds / length);
    if (n) return `${n} ${unit}${n === 1 ? "" : "s"} ago`;
  }
  return "just now";
}

// showTimes shows the times in the document in the browser's time zone, and keeps them current.
export function showTimes() {
  for (const element of document.querySelectorAll("time[datetime]")) {
    const ms = Date.parse(element.dateTime);
    if (Number.isNaN(ms)) continue;
    const text = element.dataset.form === "ago" ? ago(ms) : `${local(ms)} · ${ago(ms)}`;
    if (element.textContent !== text) element.textContent = text;
    element.title = element.dataset.form === "ago" ? `${local(ms)}, ${utc(ms)}` : utc(ms);
  }
  clearTimeout(showTimes.timer);
  showTimes.timer = setTimeout(showTimes, AGAIN);
}
