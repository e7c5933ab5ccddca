// The parts of a log, one for each phase of its job. Parts can be folded, which changes the row of each line.
// The first row of a part is its head.

export class Parts {
  constructor() {
    this.all = []; // {phase, from: the first line, folded}
    this.lay(0);
  }

  // begin adds a phase that begins at a line.
  begin(phase, line) {
    if (this.all.at(-1)?.phase === phase) return; // sent again after a lost connection
    this.all.push({ phase, from: this.all.length ? line : 0, folded: false });
    this.lay(this.lines);
  }

  // lay computes the rows of each part for a number of lines. A part without lines has no rows.
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

  // rowOf returns the row of a line. If its part is folded, that is the head of the part.
  rowOf(line) {
    const part = this.laid.findLast(({ from }) => from <= line);
    if (!part) return 0;
    return part.folded ? part.row : part.row + part.heads + line - part.from;
  }

  // at returns the content of a row: a part's head, or a line.
  at(row) {
    const part = this.laid.findLast((part) => part.row <= row);
    return row < part.row + part.heads ? { part } : { line: part.from + row - part.row - part.heads };
  }

  // lineAt returns the first line in or below a row.
  lineAt(row) {
    if (!this.laid.length) return 0;
    const { part, line } = this.at(Math.min(row, this.rows - 1));
    return line ?? part.from;
  }

  // unfold unfolds the part of a line, and returns whether it was folded.
  unfold(line) {
    const part = this.laid.findLast(({ from }) => from <= line);
    if (!part?.folded) return false;
    part.folded = false;
    this.lay(this.lines);
    return true;
  }
}
