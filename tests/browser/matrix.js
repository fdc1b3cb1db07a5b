// A table of test results: clients by cases.

export class Matrix {
  #rows = new Map();
  #columns;
  #corner;

  /** `columns` come first; other columns in the order of their first result. */
  constructor(corner, columns) {
    this.#corner = corner;
    this.#columns = new Set(columns);
  }

  /** Inserts the rows of another such table, given as text, before the following ones. */
  add(table) {
    const [head, , ...rows] = table.trim().split("\n").map((line) => line.split("|").slice(1, -1).map((cell) => cell.trim()));
    for (const [row, ...cells] of rows) cells.forEach((cell, index) => this.#cells(row, head[index + 1]).set(head[index + 1], cell));
  }

  /** Marks a case that does not apply to a client. */
  skip(row, column) {
    this.#cells(row, column).set(column, "-");
  }

  /** Runs `body`, and records its result. */
  async cell(row, column, body) {
    const cells = this.#cells(row, column);
    const began = performance.now();
    cells.set(column, "FAILED");
    await body();
    cells.set(column, `ok ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }

  #cells(row, column) {
    this.#columns.add(column);
    if (!this.#rows.has(row)) this.#rows.set(row, new Map());
    return this.#rows.get(row);
  }

  table() {
    const columns = [...this.#columns];
    const rows = [...this.#rows].map(([row, cells]) => [row, ...columns.map((column) => cells.get(column) ?? "")]);
    const lines = [[this.#corner, ...columns], ...rows];
    const widths = lines[0].map((_, index) => Math.max(...lines.map((line) => line[index].length)));
    const text = (line) => `| ${line.map((cell, index) => cell.padEnd(widths[index])).join(" | ")} |\n`;
    const rule = `|${widths.map((width) => "-".repeat(width + 2)).join("|")}|\n`;
    return text(lines[0]) + rule + lines.slice(1).map(text).join("");
  }
}
