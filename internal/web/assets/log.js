// The log of a job, of any length. The document has only the visible rows. Their lines are fetched when they
// become visible, and the builder does the searching.
import { element, onTheme, pieces } from "./ansi.js";
import { Lines } from "./lines.js";
import { Parts } from "./parts.js";
import { Search } from "./search.js";
import { localTime, utc } from "./times.js";
import { arrange, made, PHASES } from "./words.js";

const MOST_HEIGHT = 15e6; // px: browsers do not support higher elements
const BEYOND = 12; // rows above and below the visible ones
const MOST_MARKS = 200; // in a line
const HELD = 10000; // ms for which a line that was asked for is kept in view
const NARROW = "(max-width: 40rem)"; // on narrow screens lines are wrapped by default

// The beginnings of lines that report errors: those of the builder, of git, of Nix, and of a derivation's
// build, after its name.
const WARNING = /^(?:iglu: |[^\s>]+> )?warning:/i;
const ERROR = /^(?:iglu: (?:error:|failed:|cannot |could not |nothing could )|(?:[^\s>]+> )?(?:error|fatal):)/i;

const byId = (id) => document.getElementById(id);

export class Log {
  constructor(job) {
    this.lines = new Lines(job, this);
    this.search = new Search(this);
    this.view = byId("view");
    this.room = byId("room");
    this.rows = byId("rows");
    this.total = 0; // lines
    this.parts = new Parts();
    this.top = 0; // the upper edge of the view, in px of a log that is not scaled
    this.put = 0; // the position that this script has scrolled to
    this.follows = "runs" in job.dataset || "failed" in job.dataset;
    this.wraps = matchMedia(NARROW).matches;
    this.timed = false;
    this.drawn = new Map(); // line, or part: {key, row}
    this.listen();
    this.goToHash();
    this.lines.load(0);
  }

  listen() {
    const { view } = this;
    view.addEventListener("scroll", () => this.scrolled(), { passive: true });
    view.addEventListener("wheel", (e) => {
      if (this.ratio() <= 1 || e.ctrlKey || !e.deltaY) return;
      e.preventDefault(); // the scroll bar is too coarse
      this.follow(false);
      this.moveTo(this.top + e.deltaY * [1, this.height(), view.clientHeight][e.deltaMode]);
    }, { passive: false });
    view.addEventListener("keydown", (e) => this.key(e));
    const sizes = new ResizeObserver(() => {
      this.changed();
      this.hold();
    });
    for (const element of [view, document.body]) sizes.observe(element);
    for (const type of ["wheel", "keydown", "pointerdown", "touchstart"]) {
      addEventListener(type, () => this.held = null, { capture: true, passive: true });
    }
    onTheme(() => {
      this.drawn.clear(); // colours
      this.draw();
    });
    addEventListener("hashchange", () => this.goToHash());

    byId("follow").addEventListener("click", () => this.follows ? this.follow(false) : this.goToEnd());
    byId("wrap").addEventListener("click", () => this.wrap());
    byId("times").addEventListener("click", () => this.time());
    this.rows.addEventListener("click", (e) => {
      const number = e.target.closest(".number");
      if (!number || !e.shiftKey || !this.chosen) return;
      e.preventDefault(); // the link would open a window
      this.choose(Number(number.textContent) - 1, true);
    });
    this.showToggles();
  }

  showToggles() {
    byId("follow").setAttribute("aria-pressed", this.follows);
    byId("wrap").setAttribute("aria-pressed", this.wraps);
    byId("times").setAttribute("aria-pressed", this.timed);
    this.view.classList.toggle("wrapped", this.wraps);
    this.view.classList.toggle("timed", this.timed);
  }

  // grow sets the number of lines.
  grow(total) {
    if (total <= this.total) return;
    this.total = total;
    this.parts.lay(total);
    this.changed();
    if (this.waitsFor < total) {
      this.show(this.waitsFor);
      this.waitsFor = undefined;
    }
    this.search.grown();
  }

  // fetched shows lines that were fetched.
  fetched() {
    if (this.wraps) this.hold();
    this.draw();
  }

  // begin adds a phase that begins at a line. The view does not move.
  begin(phase, line) {
    this.keepingPlace(() => this.parts.begin(phase, line));
    this.hold();
  }

  // fold folds a part, or unfolds it.
  fold(part) {
    this.follow(false);
    const before = part.row * this.height() - this.top; // the head of the part
    part.folded = !part.folded;
    this.parts.lay(this.total);
    this.changed();
    this.moveTo(part.row * this.height() - before);
  }

  // keepingPlace calls a function that moves rows, and keeps the same line at the upper edge.
  keepingPlace(move) {
    const height = this.height(), row = Math.floor(this.top / height);
    const line = this.parts.lineAt(row), within = this.top - this.parts.rowOf(line) * height;
    move();
    this.changed();
    if (!this.follows && this.top > 0) this.moveTo(this.parts.rowOf(line) * height + within);
  }

  // Sizes. A wrapped log is scrolled by rows, whatever their height: its last row can be at the upper edge.
  height() {
    return this.rowHeight ||= parseFloat(getComputedStyle(this.rows).lineHeight);
  }

  mostTop() {
    const { rows } = this.parts;
    return Math.max(0, this.wraps ? (rows - 1) * this.height() : rows * this.height() - this.view.clientHeight);
  }

  // ratio is the number of px of the log for one px of the scroll bar.
  ratio() {
    return Math.max(1, this.mostTop() / MOST_HEIGHT);
  }

  changed() {
    const most = this.mostTop();
    this.room.style.height = `${most / this.ratio() + this.view.clientHeight - (most ? 0 : 1)}px`;
    if (this.follows) this.moveTo(most);
    else this.draw();
  }

  scrolled() {
    if (Math.abs(this.view.scrollTop - this.put) < 1) {
      this.draw();
      return;
    }
    this.put = this.view.scrollTop;
    this.top = this.put * this.ratio();
    const atEnd = this.top >= this.mostTop() - this.height() / 2;
    if (this.follows !== atEnd && (this.follows || !this.wraps)) this.follow(atEnd);
    this.draw();
  }

  moveTo(top) {
    this.top = Math.min(Math.max(0, top), this.mostTop());
    this.view.scrollTop = this.top / this.ratio();
    this.put = this.view.scrollTop;
    this.draw();
  }

  key(e) {
    if (e.altKey || e.ctrlKey || e.metaKey) return;
    const page = this.view.clientHeight - 2 * this.height();
    const by = { ArrowUp: -this.height(), ArrowDown: this.height(), PageUp: -page, PageDown: page, " ": e.shiftKey ? -page : page }[e.key];
    if (e.target === this.view && e.key === "Enter") {
      this.choose(this.lineSeen(), e.shiftKey);
      return;
    }
    if (by === undefined && e.key !== "Home" && e.key !== "End") return;
    if (e.target !== this.view && e.key === " ") return;
    e.preventDefault();
    if (e.key === "End") {
      this.goToEnd();
      return;
    }
    this.follow(false);
    this.moveTo(e.key === "Home" ? 0 : this.top + by);
  }

  // lineSeen returns the line found last if it is visible, otherwise the first visible line.
  lineSeen() {
    const { line } = this.search;
    return line !== undefined && this.isSeen(line) ? line : this.parts.lineAt(Math.ceil(this.top / this.height()));
  }

  // firstSeen returns the first line that is at least partly visible.
  firstSeen() {
    return this.parts.lineAt(Math.floor(this.top / this.height()));
  }

  // isSeen reports whether a line is visible. The height of wrapped lines is known only for those that are
  // drawn.
  isSeen(line) {
    if (this.wraps) {
      const box = this.drawn.get(line)?.row.getBoundingClientRect(), view = this.view.getBoundingClientRect();
      return Boolean(box?.height) && box.top >= view.top && Math.min(box.bottom, box.top + this.height()) <= view.bottom;
    }
    const at = this.parts.rowOf(line) * this.height();
    return at >= this.top && at + this.height() <= this.top + this.view.clientHeight;
  }

  follow(yes) {
    this.follows = yes;
    this.showToggles();
    if (yes) this.moveTo(this.mostTop());
  }

  // goToEnd goes to the last line, and follows the log.
  goToEnd() {
    this.follow(true);
    this.reveal();
  }

  // reveal scrolls the window to the log, and the log to a line. It keeps the line in view for a while, or until
  // the user does something else, because the elements above the log and the lines can grow meanwhile.
  reveal(wanted) {
    this.held = { wanted, until: performance.now() + HELD };
    this.hold();
  }

  hold() {
    if (!(this.held?.until > performance.now())) return;
    const { wanted } = this.held;
    this.view.scrollIntoView({ block: "nearest" });
    if (wanted === undefined) return;
    if (this.wraps) this.drawNow(); // the heights of lines
    if (!this.isSeen(wanted)) this.moveTo(this.parts.rowOf(wanted) * this.height() - (this.wraps ? 0 : this.view.clientHeight / 3));
  }

  wrap() {
    this.wraps = !this.wraps;
    this.showToggles();
    if (!this.follows) this.moveTo(this.top);
    this.changed();
  }

  // time shows or hides the time of each line.
  time() {
    this.timed = !this.timed;
    this.showToggles();
    this.draw();
  }

  draw() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.drawNow();
    });
  }

  drawNow() {
    const height = this.height();
    const seen = Math.ceil(this.view.clientHeight / height) + 1;
    const first = Math.floor(this.top / height);
    const atEnd = this.wraps && this.follows;
    const count = this.parts.rows;
    const from = Math.max(0, atEnd ? count - seen : this.wraps ? first : first - BEYOND);
    const to = Math.min(count, this.wraps ? from + seen : first + seen + BEYOND);

    const rows = [], drawn = new Map(), lines = [];
    for (let row = from; row < to; row++) {
      const { part, line } = this.parts.at(row);
      const entry = part ? this.head(part) : this.row(line);
      if (!part) lines.push(line);
      drawn.set(part ?? line, entry);
      rows.push(entry.row);
    }
    this.drawn = drawn;
    arrange(this.rows, rows);

    let above = this.top - from * height; // of the upper edge, in px
    if (atEnd) above = this.rows.offsetHeight - this.view.clientHeight;
    else if (this.wraps && rows.length) above = (this.top / height - first) * rows[0].offsetHeight;
    this.rows.style.transform = `translateY(${this.view.scrollTop - Math.max(0, above)}px)`;
    if (lines.length) this.lines.fetchFor(lines[0], lines.at(-1) + 1);
  }

  // head returns the element of a part's first row. It reuses an existing one.
  head(part) {
    const entry = this.drawn.get(part) ?? this.makeHead(part);
    const button = entry.row.firstChild, lines = part.to - part.from;
    button.setAttribute("aria-expanded", !part.folded);
    const count = `${lines.toLocaleString("en")} ${lines === 1 ? "line" : "lines"}`;
    if (button.lastChild.textContent !== count) button.lastChild.textContent = count;
    return entry;
  }

  makeHead(part) {
    const row = made("div", "part");
    const button = made("button", "fold");
    button.type = "button";
    button.append(made("span", "", PHASES[part.phase] ?? part.phase), made("span", "count"));
    button.addEventListener("click", () => this.fold(part));
    row.append(button);
    return { row };
  }

  // row returns the element of a line. It reuses an existing one if that would be the same.
  row(line) {
    const text = this.lines.text(line);
    const current = this.search.line === line, chosen = this.isChosen(line);
    const key = `${text !== undefined} ${this.search.query} ${current} ${chosen} ${this.timed} ${this.lines.isRemoved}`;
    const before = this.drawn.get(line);
    if (before?.key === key) return before;

    const row = made("div", "row");
    row.classList.toggle("waits", text === undefined);
    row.classList.toggle("chosen", chosen);
    row.classList.toggle("current", current);
    const number = made("a", "number", line + 1);
    number.href = `#L${line + 1}`;
    number.tabIndex = -1;
    number.setAttribute("aria-label", `Line ${line + 1}`);
    const content = made("span", "line");
    if (text !== undefined) content.append(...this.marked(text));
    else if (this.lines.isRemoved) content.append(made("span", "more", "The builder no longer has this line."));
    const tone = toneOf(content.textContent);
    if (tone) content.classList.add(tone);
    if (this.lines.isCut(line)) content.append(made("span", "more", " … the raw log has the whole line"));
    row.append(number, ...this.stamp(line), content);
    return { key, row };
  }

  // stamp returns the element with the time of a line, if times are shown and it is known.
  stamp(line) {
    if (!this.timed) return [];
    const at = this.lines.time(line);
    const stamp = made("time", "stamp", at ? localTime(at) : "");
    if (at) stamp.title = utc(at);
    return [stamp];
  }

  // marked returns a line's pieces, with the matches of the search marked.
  marked(text) {
    const all = pieces(text);
    if (!this.search.query) return all.map(({ text, style }) => element(text, style));
    // An expression, because the small form of a letter can be longer than the letter.
    const wanted = new RegExp(this.search.query.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "giu");
    const edges = [];
    for (const match of all.map((p) => p.text).join("").matchAll(wanted)) {
      if (edges.push(match.index, match.index + match[0].length) >= 2 * MOST_MARKS) break;
    }
    const nodes = [];
    let at = 0, passed = 0; // the position in the line, and the number of edges before it
    for (const { text, style } of all) {
      for (let from = 0; from < text.length;) {
        while (passed < edges.length && edges[passed] <= at + from) passed++;
        const to = passed < edges.length ? Math.min(text.length, edges[passed] - at) : text.length;
        const node = element(text.slice(from, to), style);
        nodes.push(passed % 2 === 1 ? mark(node) : node);
        from = to;
      }
      at += text.length;
    }
    return nodes;
  }

  // Links to lines: #L7, or #L7-L9.
  goToHash() {
    const match = /^#L(\d+)(?:-L(\d+))?$/.exec(location.hash);
    this.chosen = match && { from: match[1] - 1, to: (match[2] ?? match[1]) - 1 };
    if (match) {
      this.follow(false);
      this.show(this.chosen.from);
    }
    this.draw();
  }

  // choose puts a line into the address, or extends the lines in the address to it.
  choose(line, extend) {
    const other = extend && this.chosen ? this.chosen.from : line;
    const [first, last] = [Math.min(other, line) + 1, Math.max(other, line) + 1];
    location.hash = first === last ? `#L${first}` : `#L${first}-L${last}`;
  }

  isChosen(line) {
    return Boolean(this.chosen) && line >= this.chosen.from && line <= this.chosen.to;
  }

  // show makes a line visible, even one that the job has not printed yet.
  show(line) {
    if (line >= this.total) {
      this.waitsFor = line;
      return;
    }
    if (this.parts.unfold(line)) this.changed();
    this.reveal(line);
    this.draw();
  }

}

// toneOf returns the CSS class for the text of a line.
function toneOf(text) {
  if (WARNING.test(text)) return "warning";
  if (ERROR.test(text)) return "error-line";
  return text.startsWith("iglu: ") ? "own" : "";
}

function mark(node) {
  const marked = document.createElement("mark");
  marked.append(node.nodeType === Node.TEXT_NODE ? node : node.textContent);
  return marked;
}
