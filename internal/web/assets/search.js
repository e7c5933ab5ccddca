// The search in a log, which the builder does.

const DELAY = 200; // ms after a key
const AGAIN = 1500; // ms, in a log that grows
const RETRY = 5000; // ms, after a search that failed

const byId = (id) => document.getElementById(id);

export class Search {
  // log shows the lines found: its lines and their total, the first visible one (firstSeen), follow, show and draw.
  constructor(log) {
    this.log = log;
    this.query = "";
    this.found = []; // lines
    this.count = 0;
    this.current = -1; // which of found
    this.searched = 0; // lines
    this.selects = false; // the first line that is found
    this.listen();
  }

  listen() {
    byId("search").addEventListener("submit", (e) => {
      e.preventDefault();
      this.step(1);
    });
    byId("previous").addEventListener("click", () => this.step(-1));
    const query = byId("query");
    query.addEventListener("input", () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.start(query.value), DELAY);
    });
    query.addEventListener("keydown", (e) => {
      if (e.key === "Enter" && e.shiftKey) {
        e.preventDefault();
        this.step(-1);
      }
    });
  }

  // line returns the line found last, if there is one.
  get line() {
    return this.found[this.current];
  }

  // grown searches the new lines of a log.
  grown() {
    if (this.query) this.searchOn();
  }

  // start searches for a text from the beginning.
  async start(query) {
    this.query = query;
    this.found = [];
    this.count = this.searched = 0;
    this.current = -1;
    this.selects = true;
    this.showFound();
    this.log.draw();
    if (query) await this.searchOn(true);
  }

  // searchOn searches the part of the log that has not been searched yet.
  async searchOn(isNew) {
    if (this.searching && !isNew) return;
    const query = this.query;
    this.searching?.abort();
    const mine = this.searching = new AbortController();
    try {
      const answer = await this.log.lines.ask(`search?q=${encodeURIComponent(query)}&from=${this.searched}`, mine.signal);
      if (query !== this.query || mine !== this.searching) return;
      if (this.found.length === this.count) this.found.push(...answer.lines);
      this.count += answer.count;
      this.searched = answer.searched;
      if (this.selects && this.found.length) {
        const first = this.found.findIndex((line) => line >= this.log.firstSeen());
        this.select(Math.max(0, first));
      }
      if (answer.searched >= answer.total) this.selects = false; // a log that grows does not move
      this.showFound();
      if (!isNew) await new Promise((resolve) => setTimeout(resolve, AGAIN));
    } catch {
      if (mine !== this.searching) return; // a newer search has replaced it
      this.showSearchFailed();
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    } finally {
      if (mine === this.searching) this.searching = null;
    }
    if (query && query === this.query && this.searched < this.log.total) this.searchOn();
  }

  // step goes to the next line found, or to the one before.
  async step(by) {
    if (byId("query").value !== this.query) {
      clearTimeout(this.typing);
      await this.start(byId("query").value);
      return;
    }
    if (!this.found.length) return;
    if (this.current + by === this.found.length && this.found.length < this.count && !await this.more()) return;
    this.select((this.current + by + this.found.length) % this.found.length);
    this.showFound();
  }

  // more fetches further matches, and returns whether it did.
  async more() {
    if (this.fetchesMore) return false;
    this.fetchesMore = true;
    const query = this.query;
    try {
      const answer = await this.log.lines.ask(`search?q=${encodeURIComponent(query)}&from=${this.found.at(-1) + 1}`);
      if (query === this.query) this.found.push(...answer.lines);
      return query === this.query;
    } catch {
      this.showSearchFailed();
      return false;
    } finally {
      this.fetchesMore = false;
    }
  }

  select(i) {
    this.selects = false;
    this.current = i;
    this.log.follow(false);
    this.log.show(this.found[i]);
  }

  showSearchFailed() {
    byId("found").textContent = this.log.lines.isRemoved ? "The builder no longer has the log" : "The search failed";
  }

  showFound() {
    const none = this.found.length === 0;
    byId("previous").disabled = byId("next").disabled = none;
    byId("found").textContent = !this.query ? "" : none ? (this.searched ? "No line" : "…") :
      `${(this.current + 1).toLocaleString("en")} of ${this.count.toLocaleString("en")}`;
  }
}
