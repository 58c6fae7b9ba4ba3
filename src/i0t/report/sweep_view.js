"use strict";
// What the page over a sweep's jobs knows and what the reader chose, for the scripts behind this one.
// Everything that comes from a run is put into the page as text, never as HTML.
const sweepView = (() => {
  const sweep = i0t.data("sweep");
  const TRANSDUCTIVE = "transductive";
  const SERIES = 8; // the last one takes all values beyond
  const ROW = "row";
  const at = (id) => document.getElementById(id);
  const state = {
    sort: null, descending: false, x: sweep.x, y: sweep.y, goals: new Map(sweep.numbers.map((n, i) => [i, n.goal])),
    color: sweep.color, keys: new Set(sweep.shown.keys), numbers: new Set(sweep.shown.numbers), best: null,
    group: null,
  };
  for (const line of sweep.lines) {
    const job = sweep.jobs[line.job];
    const given = sweep.keys.map((key, i) => `${key.name}=${line.given[i]}`);
    line.about = given.filter((text) => !text.endsWith("=")).join(", ");
    line.words = [job.name, job.status, line.row, line.fitted, line.measured, ...given].join(" ").toLowerCase();
  }

  const shown = (number, value) => {
    if (value == null) return "–";
    return number.decimals > 0 ? value.toFixed(number.decimals) : String(value);
  };
  const goalText = (goal) => {
    if (goal == null) return "";
    if (typeof goal === "number") return `best at ${goal}`;
    return `${goal} is better`;
  };

  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== null) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  function options(select, entries, chosen) {
    select.replaceChildren(...entries.map(([value, text]) => element("option", text, { value })));
    select.value = chosen;
  }

  // ---- what is better ------------------------------------------------------------------------------------------------

  const cost = (value, goal) => {
    if (goal === "lower") return value;
    return goal === "higher" ? -value : Math.abs(value - goal);
  };

  function grouped(lines) {
    const groups = new Map();
    for (const line of lines) {
      if (!groups.has(line.group)) groups.set(line.group, []);
      groups.get(line.group).push(line);
    }
    return groups;
  }

  // Of lines that have both numbers: those that none other beats which they may be compared with, a list per group.
  const paretoFronts = (lines) => [...grouped(lines).values()].map(paretoFront).filter((front) => front.length > 0);

  // Along the first number from its best.
  function paretoFront(lines) {
    const [goalX, goalY] = [state.goals.get(state.x), state.goals.get(state.y)];
    if (goalX == null || goalY == null) return [];
    const points = lines.map((line) => ({
      line, x: cost(line.numbers[state.x], goalX), y: cost(line.numbers[state.y], goalY),
    }));
    points.sort((a, b) => a.x - b.x || a.y - b.y);
    const front = [];
    for (const point of points) {
      const last = front[front.length - 1];
      if (!last || point.y < last.y || (point.x === last.x && point.y === last.y)) front.push(point);
    }
    return front.map((point) => point.line);
  }

  const drawn = (lines) => lines.filter((l) => l.numbers[state.x] != null && l.numbers[state.y] != null);

  // ---- colours -------------------------------------------------------------------------------------------------------

  function colorOf(line) {
    if (state.color === ROW) return line.row;
    return line.given[sweep.keys.findIndex((key) => key.name === state.color)];
  }

  // Value to series over all lines, so that a filter changes no colour.
  function series() {
    const key = sweep.keys.find((one) => one.name === state.color);
    const values = key ? key.values : [...new Set(sweep.lines.map((line) => line.row).filter(Boolean))];
    return new Map(values.map((value, i) => [value, Math.min(i, SERIES - 1)]));
  }

  return {
    sweep, state, SERIES, ROW, TRANSDUCTIVE,
    at, element, options, shown, goalText, cost, grouped, paretoFronts, drawn, colorOf, series,
  };
})();
