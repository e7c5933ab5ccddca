// The parts of a log, one for each phase of its job: which of them are folded, and so in which row
// each line is. A part begins with a row of its own, its head.

export class Parts {
  constructor() {
    this.all = []; // {phase, from: the first line, folded}
    this.lay(0);
  }

  // begin takes that a phase begins at a line.
  begin(phase, line) {
    if (this.all.at(-1)?.phase === phase) return; // the connection was lost between
    this.all.push({ phase, from: this.all.length ? line : 0, folded: false });
    this.lay(this.lines);
  }

  // lay gives each part its rows, of a log of so many lines. A part without lines has none.
  lay(lines) {
    this.lines = lines;
    this.laid = [];
    let row = 0;
    const parts = this.all.length ? this.all : [{ from: 0 }];
    parts.forEach((part, i) => {
      part.to = Math.min(lines, parts[i + 1]?.from ?? lines);
      if (part.to <= part.from) return;
      part.row = row;
      part.heads = part.phase ? 1 : 0;
      row += part.heads + (part.folded ? 0 : part.to - part.from);
      this.laid.push(part);
    });
    this.rows = row;
  }

  // rowOf returns the row of a line: of one that is folded, the head of its part.
  rowOf(line) {
    const part = this.laid.findLast(({ from }) => from <= line);
    if (!part) return 0;
    return part.folded ? part.row : part.row + part.heads + line - part.from;
  }

  // at returns what is in a row: a part's head, or a line.
  at(row) {
    const part = this.laid.findLast((part) => part.row <= row);
    return row < part.row + part.heads ? { part } : { line: part.from + row - part.row - part.heads };
  }

  // lineAt returns the first line in a row or below it.
  lineAt(row) {
    if (!this.laid.length) return 0;
    const { part, line } = this.at(Math.min(row, this.rows - 1));
    return line ?? part.from;
  }

  // unfold unfolds what a line is in, and returns whether it was folded.
  unfold(line) {
    const part = this.laid.findLast(({ from }) => from <= line);
    if (!part?.folded) return false;
    part.folded = false;
    this.lay(this.lines);
    return true;
  }
}
