// A derivation's own log, in a dialog. It is followed while the derivation is being built.
import { element, pieces } from "./ansi.js";
import { address, ask, sentenceOf } from "./builder.js";
import { made } from "./words.js";

const KEPT = 5000; // the number of last lines that are shown: fewer if they are long, or have many colours
const KEPT_SIZE = 2 << 20; // characters
const PIECE = 40; // characters: a piece of text with a style costs a browser as much as so many
const MOST_SHOWN = 8192; // the number of characters at which a line is cut, as in the job's log
const NEAR = 30; // px: nearer to the end than this, the view follows the log

const byId = (id) => document.getElementById(id);

export class DerivationLog {
  constructor(job) {
    this.api = `api/v1/jobs/${job.dataset.job}/derivations`;
    this.dialog = byId("derivation");
    this.text = byId("derivation-text");
    this.dialog.addEventListener("close", () => this.stop());
    this.dialog.addEventListener("click", (e) => {
      if (e.target === this.dialog) this.dialog.close(); // a click outside of the dialog
    });
  }

  // open shows the log of the derivation with a path.
  async open(path, name) {
    this.stop();
    const url = `${this.api}/${encodeURIComponent(path.replace(/^.*\//, ""))}/log`;
    byId("derivation-title").textContent = name;
    byId("derivation-raw").href = address(url);
    byId("derivation-note").textContent = "";
    this.text.replaceChildren();
    this.rows = []; // the shown lines
    this.size = 0; // of all rows, in characters
    this.lines = 0;
    this.dialog.showModal();
    const mine = this.reading = new AbortController();
    const say = (text) => {
      if (!mine.signal.aborted) byId("derivation-note").textContent = text;
    };
    try {
      const response = await ask(`${url}?follow=1`, { signal: mine.signal });
      if (!response.ok) throw new Error(await sentenceOf(response));
      await this.read(response.body.pipeThrough(new TextDecoderStream()).getReader());
      say(this.lines ? this.cutNote() : "The log is empty.");
    } catch (error) {
      say(`The log cannot be read: ${error.message}`);
    }
  }

  stop() {
    this.reading?.abort();
  }

  async read(reader) {
    for (let rest = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      this.add(lines);
    }
  }

  add(lines) {
    const { text } = this;
    const follows = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR;
    this.lines += lines.length;
    for (const line of lines.slice(-KEPT)) {
      this.addRow(line);
      while (this.rows.length > KEPT || this.size > KEPT_SIZE) this.removeRow();
    }
    byId("derivation-note").textContent = this.cutNote();
    if (follows) text.scrollTop = text.scrollHeight;
  }

  addRow(line) {
    const shown = pieces(line.slice(0, MOST_SHOWN));
    const row = made("div");
    row.append(...shown.map(({ text, style }) => element(text, style)));
    if (line.length > MOST_SHOWN) row.append(made("span", "more", " … Raw has the whole line"));
    row.append("\n");
    this.text.append(row);
    const size = shown.reduce((sum, { text }) => sum + text.length + PIECE, 0);
    this.rows.push({ row, size });
    this.size += size;
  }

  removeRow() {
    const { row, size } = this.rows.shift();
    row.remove();
    this.size -= size;
  }

  cutNote() {
    const shown = this.rows.length;
    return this.lines > shown ? `The last ${shown.toLocaleString("en")} of ${this.lines.toLocaleString("en")} lines` : "";
  }
}
