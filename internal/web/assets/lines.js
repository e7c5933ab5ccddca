// The lines of a log that are in memory: they are fetched when they are to be shown.
import { ask } from "./builder.js";

const PAGE = 500; // lines that are fetched at once
const KEPT_PAGES = 60; // in memory
const RETRY = 1000; // ms, after an answer that failed
const REMOVED_RETRY = 5000; // ms, after the builder had no such log

export class Lines {
  // log is told how many lines there are (grow), that some were fetched (fetched), and to draw again (draw).
  constructor(job, log) {
    this.api = `api/v1/jobs/${job.dataset.job}`;
    this.log = log;
    this.pages = new Map(); // number: {lines, cut, times}
    this.loading = new Set();
    this.isRemoved = false; // the builder no longer has the log
  }

  text(line) {
    return this.pages.get(Math.floor(line / PAGE))?.lines[line % PAGE];
  }

  time(line) {
    return this.pages.get(Math.floor(line / PAGE))?.times[line % PAGE];
  }

  isCut(line) {
    return this.pages.get(Math.floor(line / PAGE))?.cut.has(line % PAGE) ?? false;
  }

  // fetchFor fetches the lines from one to before another that are not in memory.
  fetchFor(from, to) {
    for (let page = Math.floor(from / PAGE); page * PAGE < to; page++) {
      const has = this.pages.get(page)?.lines.length ?? 0;
      if (has < Math.min(PAGE, to - page * PAGE)) this.load(page);
    }
  }

  async load(page) {
    if (this.loading.size >= 4 || this.loading.has(page)) return; // draw requests it again
    this.loading.add(page);
    try {
      const has = this.pages.get(page) ?? { lines: [], cut: new Set(), times: [] };
      const from = page * PAGE + has.lines.length;
      const answer = await this.ask(`lines?from=${from}&count=${PAGE - has.lines.length}`);
      for (const i of answer.cut ?? []) has.cut.add(has.lines.length + i);
      has.lines.push(...answer.lines);
      has.times.push(...answer.times);
      this.pages.delete(page); // the most recently used page is the last
      this.pages.set(page, has);
      for (const old of this.pages.keys()) {
        if (this.pages.size <= KEPT_PAGES) break;
        this.pages.delete(old);
      }
      this.log.grow(answer.total);
    } catch {
      this.log.draw();
      await new Promise((resolve) => setTimeout(resolve, this.isRemoved ? REMOVED_RETRY : RETRY));
    } finally {
      this.loading.delete(page);
      this.log.fetched();
    }
  }

  // ask requests something about the log.
  async ask(path, signal) {
    const response = await ask(`${this.api}/${path}`, { signal });
    this.isRemoved = response.status === 404;
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }
}
