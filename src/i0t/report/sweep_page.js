"use strict";
// The page over a sweep's jobs: filters, the sortable table, the Pareto front and the command to copy.
(() => {
  const {
    sweep, state, ROW, TRANSDUCTIVE,
    at, element, options, shown, goalText, cost, grouped, paretoFronts, drawn,
  } = sweepView;

  // ---- the lines that are shown --------------------------------------------------------------------------------------

  function filtered() {
    const [row, protocol, measured] = ["row", "protocol", "measured"].map((name) => at(`filter-${name}`).value);
    const words = at("filter-words").value.toLowerCase().split(/\s+/).filter(Boolean);
    return sweep.lines.filter((line) => {
      if (line.row === "") return words.every((word) => line.words.includes(word)); // a job without numbers
      if ((row && line.row !== row) || (measured && line.measured !== measured)) return false;
      if (protocol && (line.protocol === TRANSDUCTIVE) !== (protocol === TRANSDUCTIVE)) return false;
      return words.every((word) => line.words.includes(word));
    });
  }

  function setUpFilters() {
    const having = sweep.lines.filter((line) => line.row);
    const choose = (name, all, values) => {
      const select = at(`filter-${name}`);
      options(select, [["", all], ...values], "");
      select.parentElement.hidden = values.length < 2;
    };
    const same = (values) => [...new Set(values)].map((value) => [value, value]);
    choose("row", "every row", same(having.map((line) => line.row)));
    choose("measured", "all data and splits", same(having.map((line) => line.measured)));
    const mixed = new Set(having.map((line) => line.protocol === TRANSDUCTIVE)).size > 1;
    const protocols = [["others", "other data, or nothing"], [TRANSDUCTIVE, "the measured data: transductive"]];
    choose("protocol", "any data", mixed ? protocols : []);
    at("filters").hidden = false;
    at("filters").addEventListener("submit", (event) => event.preventDefault());
    at("filters").addEventListener("input", update);
  }

  // ---- the table -----------------------------------------------------------------------------------------------------

  function columns() {
    const job = (line) => sweep.jobs[line.job];
    const keys = sweep.keys.map((key, i) => ({
      id: `key-${i}`, header: key.name, kind: "given", on: state.keys.has(i),
      text: (l) => l.given[i], sort: (l) => (l.given[i] === "" ? null : key.values.indexOf(l.given[i])),
    }));
    const numbers = sweep.numbers.map((number, i) => ({
      id: `number-${i}`, header: number.header, title: number.name, kind: "number", on: state.numbers.has(i),
      text: (l) => shown(number, l.numbers[i]), sort: (l) => l.numbers[i],
    }));
    const first = [
      { id: "job", header: "job", kind: "job", on: true, sort: (l) => l.job },
      { id: "status", header: "status", kind: "status", on: true, text: (l) => job(l).status },
    ];
    const row = { id: ROW, header: "row", kind: "row", on: true, text: (l) => l.row || "–", sort: (l) => l.row || null };
    const last = [
      { id: "fitted", header: "fitted on", kind: "words", on: true, text: (l) => l.fitted, sort: (l) => l.fitted || null },
      { id: "measured", header: "measured on", kind: "words", on: true, text: (l) => l.measured },
    ];
    return [...first, ...keys, row, ...numbers, ...last].map((c) => ({ sort: c.text, ...c })).filter((c) => c.on);
  }

  function sorted(lines, column) {
    const sign = state.descending ? -1 : 1;
    return [...lines].sort((one, other) => {
      const [a, b] = [column.sort(one), column.sort(other)];
      if (a == null || b == null) return (a == null) - (b == null); // what is missing comes last either way
      if (a === b) return 0;
      return sign * (a < b ? -1 : 1);
    });
  }

  function sortBy(column) {
    const goal = column.kind === "number" ? state.goals.get(Number(column.id.slice("number-".length))) : null;
    if (state.sort === column.id) state.descending = !state.descending;
    else Object.assign(state, { sort: column.id, descending: goal === "higher" });
    update();
    at("jobs").querySelector(`[data-column="${column.id}"] button`).focus();
  }

  function headerCell(column) {
    const cell = element("th", null, { scope: "col", "data-column": column.id });
    if (column.kind === "number") cell.className = "number";
    if (column.title) cell.title = column.title;
    const button = element("button", column.header, { type: "button" });
    button.addEventListener("click", () => sortBy(column));
    cell.append(button);
    if (state.sort === column.id) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    return cell;
  }

  function bodyCell(column, line) {
    const job = sweep.jobs[line.job];
    if (column.kind === "job") {
      const cell = element("th", job.link ? null : job.name, { scope: "row" });
      if (job.link) cell.append(element("a", job.name, { href: job.link }));
      return cell;
    }
    if (column.kind === "status") {
      const cell = element("td", null);
      cell.append(element("span", job.status, { class: `badge ${job.status}` }));
      return cell;
    }
    return element("td", column.text(line), { class: column.kind });
  }

  function drawTable(lines, front) {
    const table = at("jobs");
    const shownColumns = columns();
    const by = shownColumns.find((column) => column.id === state.sort);
    const head = element("tr", null);
    head.append(...shownColumns.map(headerCell));
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...(by ? sorted(lines, by) : lines).map((line) => {
      const row = element("tr", null);
      if (front.has(line)) row.className = "front";
      row.append(...shownColumns.map((column) => bodyCell(column, line)));
      return row;
    }));
  }

  function setUpChooser() {
    const entry = (header, title, set, i) => {
      const label = element("label", null);
      if (title) label.title = title;
      const box = element("input", null, { type: "checkbox" });
      box.checked = set.has(i);
      box.addEventListener("change", () => { if (box.checked) set.add(i); else set.delete(i); update(); });
      label.append(box, ` ${header}`);
      return label;
    };
    at("chooser").replaceChildren(
      ...sweep.keys.map((key, i) => entry(key.name, "", state.keys, i)),
      ...sweep.numbers.map((number, i) => entry(number.header, number.name, state.numbers, i)),
    );
    at("columns").hidden = sweep.keys.length + sweep.numbers.length === 0;
  }

  // ---- axes and front ------------------------------------------------------------------------------------------------

  function drawFront(lines, front) {
    const [x, y] = [sweep.numbers[state.x], sweep.numbers[state.y]];
    const heads = at("front").tHead.rows[0].cells;
    heads[2].textContent = x.header;
    heads[3].textContent = y.header;
    at("front").tBodies[0].replaceChildren(...front.map((line) => {
      const row = element("tr", null);
      row.append(
        element("th", sweep.jobs[line.job].name, { scope: "row" }), element("td", line.row),
        element("td", shown(x, line.numbers[state.x]), { class: "number" }),
        element("td", shown(y, line.numbers[state.y]), { class: "number" }),
        element("td", line.fitted, { class: "words" }), element("td", line.measured, { class: "words" }),
      );
      return row;
    }));
    const goals = [state.goals.get(state.x), state.goals.get(state.y)];
    const unsaid = goals.includes(null) ? "Say of both numbers which way is better, and the front is drawn." : "";
    at("front-note").textContent = lines.length > 0 ? unsaid : "None of the lines that are shown has both numbers.";
  }

  function setUpAxes() {
    const names = sweep.numbers.map((number, i) => [String(i), number.header]);
    const goals = (i) => {
      const own = sweep.numbers[i].goal;
      const known = typeof own === "number" ? [[String(own), goalText(own)]] : [];
      return [...known, ["lower", goalText("lower")], ["higher", goalText("higher")], ["", "neither is better"]];
    };
    const showGoal = (select, i) => options(select, goals(i), String(state.goals.get(i) ?? ""));
    for (const axis of ["x", "y"]) {
      const [select, goal] = [at(`axis-${axis}`), at(`goal-${axis}`)];
      options(select, names, String(state[axis]));
      showGoal(goal, state[axis]);
      select.addEventListener("change", () => { state[axis] = Number(select.value); showGoal(goal, state[axis]); update(); });
      goal.addEventListener("change", () => {
        const word = goal.value;
        state.goals.set(state[axis], word === "" ? null : Number.isNaN(Number(word)) ? word : Number(word));
        update();
      });
    }
    const colored = sweep.keys.filter((key) => key.values.length <= 12).map((key) => [key.name, key.name]);
    options(at("color"), [[ROW, "row"], ...colored], state.color);
    at("color").addEventListener("change", () => { state.color = at("color").value; update(); });
    at("axes").hidden = false;
  }

  // ---- the command ---------------------------------------------------------------------------------------------------

  // What the reader chose, if it is there; else the largest group, transductive ones last.
  function chosenGroup(groups) {
    const rank = ([, lines]) => (lines[0].protocol === TRANSDUCTIVE ? 0 : 1e9) + lines.length;
    const first = [...groups].sort((a, b) => rank(b) - rank(a))[0]?.[0] ?? "";
    const chosen = groups.has(state.group) ? state.group : first;
    options(at("best-group"), [...groups.keys()].map((name) => [name, name || "all"]), chosen);
    at("best-group").parentElement.hidden = groups.size < 2;
    return chosen;
  }

  function drawBest(lines) {
    const number = sweep.numbers[state.best];
    const goal = state.goals.get(state.best) ?? "higher";
    const groups = grouped(lines.filter((line) => line.numbers[state.best] != null));
    const group = chosenGroup(groups);
    let best = null;
    for (const line of groups.get(group) ?? []) {
      if (best === null || cost(line.numbers[state.best], goal) < cost(best.numbers[state.best], goal)) best = line;
    }
    const job = best === null ? null : sweep.jobs[best.job];
    at("copy").hidden = !job?.command;
    at("copied").textContent = "";
    if (job === null) {
      at("best-said").textContent = `None of the lines that are shown has ${number.header}.`;
      at("best-command").textContent = "";
      return;
    }
    const value = `${number.header} ${shown(number, best.numbers[state.best])} (${goalText(goal)})`;
    at("best-said").replaceChildren(
      "Job ", element("strong", job.name), `, row ${best.row}: ${value}; ${best.fitted}; ${best.measured}.`,
    );
    at("best-command").textContent = job.command || "The folder of this job does not say how it was started.";
  }

  function setUpBest() {
    const wanted = [state.y, ...sweep.numbers.keys()].filter((i) => i != null);
    state.best = wanted.find((i) => sweep.numbers[i].goal != null);
    const entries = sweep.numbers.map((number, i) => [String(i), number.header]);
    options(at("best-number"), entries.filter((_, i) => sweep.numbers[i].goal != null), String(state.best));
    at("best-number").addEventListener("change", () => { state.best = Number(at("best-number").value); update(); });
    at("best-group").addEventListener("change", () => { state.group = at("best-group").value; update(); });
    at("best-controls").hidden = false;
    at("copy").addEventListener("click", copy);
  }

  async function copy() {
    const text = at("best-command").textContent;
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch { // a page from a file may not; then as a selection
      const range = document.createRange();
      range.selectNodeContents(at("best-command"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      done = document.execCommand("copy");
    }
    at("copied").textContent = done ? "Copied." : "Selected: copy it with the keyboard.";
  }

  // ---- all together --------------------------------------------------------------------------------------------------

  const drawsScatter = at("figure-scatter") !== null;
  const drawsParallel = at("figure-parallel") !== null;

  function update() {
    const lines = filtered();
    const having = drawsScatter ? drawn(lines) : [];
    const fronts = paretoFronts(having);
    const onFront = new Set(fronts.flat());
    at("filter-count").textContent = `${lines.length} of ${sweep.lines.length} lines`;
    drawTable(lines, onFront);
    if (drawsScatter) { sweepPlots.drawScatter(having, fronts); drawFront(having, fronts.flat()); }
    if (drawsParallel) sweepPlots.drawParallel(lines, onFront);
    if (at("best-number")) drawBest(lines);
  }

  i0t.ready(() => {
    setUpFilters();
    setUpChooser();
    if (drawsScatter) setUpAxes();
    if (at("best-number")) setUpBest();
    update();
  });
})();
