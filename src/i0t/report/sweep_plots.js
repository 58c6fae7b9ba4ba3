"use strict";
// Both figures of the page over a sweep's jobs.
const sweepPlots = (() => {
  const { sweep, state, SERIES, at, element, shown, goalText, colorOf, series } = sweepView;

  function drawLegend(list, bySeries) {
    list.replaceChildren(...[...bySeries].map(([value, i]) => element("li", value || "(not given)", { class: `s${i}` })));
  }

  // ---- one number against another ------------------------------------------------------------------------------------

  function fitRange(range, values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    const [start, end] = values.length > 0 ? [low - margin, high + margin] : [0, 1];
    range.setv({ start, end, reset_start: start, reset_end: end });
  }

  function steps(fronts) {
    const found = { x: [], y: [] };
    if ([state.x, state.y].some((i) => typeof state.goals.get(i) !== "string")) return found;
    const add = (x, y) => { found.x.push(x); found.y.push(y); };
    for (const front of fronts) {
      front.forEach((line, i) => {
        if (i > 0) add(line.numbers[state.x], front[i - 1].numbers[state.y]);
        add(line.numbers[state.x], line.numbers[state.y]);
      });
      add(NaN, NaN); // no line from one front to the next
    }
    return found;
  }

  function drawScatter(lines, fronts) {
    const front = fronts.flat();
    const model = (name) => i0t.model("scatter", name);
    const [x, y] = [sweep.numbers[state.x], sweep.numbers[state.y]];
    const bySeries = series();
    for (let i = 0; i < SERIES; i++) {
      const own = lines.filter((line) => (bySeries.get(colorOf(line)) ?? SERIES - 1) === i);
      model(`points-${i}`).data = {
        x: own.map((l) => l.numbers[state.x]), y: own.map((l) => l.numbers[state.y]),
        job: own.map((l) => sweep.jobs[l.job].name), row: own.map((l) => l.row), given: own.map((l) => l.about),
        fitted: own.map((l) => l.fitted), measured: own.map((l) => l.measured),
        xs: own.map((l) => `${x.header} ${shown(x, l.numbers[state.x])}`),
        ys: own.map((l) => `${y.header} ${shown(y, l.numbers[state.y])}`),
      };
    }
    model("front").data = steps(fronts);
    model("rings").data = { x: front.map((l) => l.numbers[state.x]), y: front.map((l) => l.numbers[state.y]) };
    model("x-axis").axis_label = axisLabel(x, state.goals.get(state.x));
    model("y-axis").axis_label = axisLabel(y, state.goals.get(state.y));
    fitRange(model("x-range"), lines.map((l) => l.numbers[state.x]));
    fitRange(model("y-range"), lines.map((l) => l.numbers[state.y]));
    drawLegend(at("legend"), bySeries);
  }

  const axisLabel = (number, goal) => (goal == null ? number.header : `${number.header} (${goalText(goal)})`);

  // ---- parallel coordinates ------------------------------------------------------------------------------------------

  // Paths without what all of them have in common, and no text longer than its place.
  function shortened(values) {
    let parts = values.map((value) => value.split("/"));
    const alike = (cut) => parts.every((one) => one.length > 1) && new Set(parts.map((one) => one.at(cut))).size === 1;
    while (values.length > 1 && alike(0)) parts = parts.map((one) => one.slice(1));
    while (values.length > 1 && alike(-1)) parts = parts.map((one) => one.slice(0, -1));
    return parts.map((one) => one.join("/")).map((text) => (text.length > 22 ? `…${text.slice(-21)}` : text));
  }

  function axesOf(lines) {
    const words = (name, count) => name.split(".").slice(-count).join(".");
    const ends = sweep.keys.map((key) => words(key.name, 1));
    const keys = sweep.keys.map((key, i) => ({ key, i })).filter(({ i }) => state.keys.has(i)).map(({ key, i }) => {
      const texts = shortened(key.values);
      const every = Math.ceil(texts.length / 8);
      return {
        name: ends.filter((end) => end === ends[i]).length > 1 ? words(key.name, 2) : ends[i],
        place: (l) => (l.given[i] === "" ? NaN : (key.values.indexOf(l.given[i]) + 0.5) / texts.length),
        ticks: texts.map((text, n) => [text, (n + 0.5) / texts.length]).filter((_, n) => n % every === 0),
      };
    });
    const numbers = sweep.numbers.map((number, i) => ({ number, i })).filter(({ i }) => state.numbers.has(i));
    return [...keys, ...numbers.map(({ number, i }) => numberAxis(lines, number, i))];
  }

  function numberAxis(lines, number, i) {
    const values = lines.map((line) => line.numbers[i]).filter((value) => value != null);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const goal = state.goals.get(i);
    const arrow = { lower: " ↓", higher: " ↑" }[goal] ?? "";
    const place = (value) => (high > low ? (value - low) / (high - low) : 0.5);
    const ticks = values.length === 0 ? [] : high > low ? [low, (low + high) / 2, high] : [low];
    return {
      name: number.header + arrow,
      place: (line) => (line.numbers[i] == null ? NaN : place(line.numbers[i])),
      ticks: ticks.map((value) => [shown(number, value), place(value)]),
    };
  }

  function drawParallel(lines, front) {
    const model = (name) => i0t.model("parallel", name);
    const axes = axesOf(lines);
    const bySeries = series();
    const across = axes.map((_, i) => i);
    for (let i = 0; i < SERIES; i++) {
      const own = lines.filter((line) => line.row && (bySeries.get(colorOf(line)) ?? SERIES - 1) === i);
      model(`lines-${i}`).data = {
        xs: own.map(() => across), ys: own.map((line) => axes.map((axis) => axis.place(line))),
        alpha: own.map((line) => (front.has(line) ? 1 : 0.4)), width: own.map((line) => (front.has(line) ? 3 : 1.3)),
        job: own.map((l) => sweep.jobs[l.job].name), row: own.map((l) => l.row), given: own.map((l) => l.about),
        fitted: own.map((l) => l.fitted),
      };
    }
    model("rules").data = { x: across, low: across.map(() => 0), high: across.map(() => 1) };
    const ticks = axes.flatMap((axis, x) => axis.ticks.map(([text, y]) => ({ x, y, text })));
    model("ticks").data = { x: ticks.map((t) => t.x), y: ticks.map((t) => t.y), text: ticks.map((t) => t.text) };
    // Every other name stands higher, so that long neighbours do not meet.
    model("names").data = { x: across, y: across.map((i) => 1.04 + 0.07 * (i % 2)), text: axes.map((a) => a.name) };
    const [start, end] = [-0.35, Math.max(axes.length - 0.35, 0.65)];
    model("axes-range").setv({ start, end, reset_start: start, reset_end: end });
    drawLegend(at("parallel-legend"), bySeries);
  }

  return { drawScatter, drawParallel };
})();
