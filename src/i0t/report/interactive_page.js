"use strict";
// The page's own part: which state the figures show, what is under the pointer, and how the sphere is turned.
i0t.ready(() => {
  const points = i0t.data("points");
  const switched = i0t.data("switched");
  const element = (id) => document.getElementById(id);
  const RADIANS = Math.PI / 180;
  const CATCH = 16; // pixels around a point within which it is pointed at
  const TILE = 96; // pixels of a thumbnail as it is shown
  const modalities = ["images", "texts"];
  let state = 0;
  let picked = null; // {modality, index}
  let touched = false; // whether the pointer is a finger
  let angles = { turn: 25, tilt: 15 };

  // ---- the points of a state

  function unpack(text, width) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const whole = new Int16Array(bytes.buffer);
    const columns = Array.from({ length: width }, () => new Float64Array(whole.length / width));
    whole.forEach((value, place) => { columns[place % width][Math.floor(place / width)] = value / 32767; });
    return columns;
  }

  const coordinates = points.states.map(() => null);
  function current() {
    coordinates[state] ??= {
      plane: points.states[state].plane.map((text) => unpack(text, 2).map((c) => c.map((x) => x * points.limit))),
      sphere: points.states[state].sphere.map((text) => unpack(text, 3)),
      cosines: points.paired ? unpack(points.states[state].cosines, 1)[0] : null,
    };
    return coordinates[state];
  }

  // ---- the plane

  function drawPlane() {
    const { plane } = current();
    const shares = points.states[state].explained;
    modalities.forEach((name, number) => {
      const [x, y] = plane[number];
      i0t.model("plane", name).data = { x, y, alpha: new Float64Array(x.length).fill(0.75) };
    });
    i0t.model("plane", "x_axis").axis_label = `component 1 (${shares[0]} of the variance)`;
    i0t.model("plane", "y_axis").axis_label = `component 2 (${shares[1]} of the variance)`;
    drawJoins();
  }

  function drawJoins() {
    const wanted = points.paired && element("join-pairs")?.checked;
    const [[x0, y0], [x1, y1]] = current().plane;
    i0t.model("plane", "joins").data = wanted ? { x0, y0, x1, y1 } : { x0: [], y0: [], x1: [], y1: [] };
  }

  // ---- the sphere: x to the right, y up, z to the reader

  function rotated([x, y, z]) {
    const [ct, st] = [Math.cos(angles.turn * RADIANS), Math.sin(angles.turn * RADIANS)];
    const [cp, sp] = [Math.cos(angles.tilt * RADIANS), Math.sin(angles.tilt * RADIANS)];
    const across = new Float64Array(x.length), up = new Float64Array(x.length), near = new Float64Array(x.length);
    for (let i = 0; i < x.length; i++) {
      const back = ct * z[i] - st * x[i];
      across[i] = ct * x[i] + st * z[i];
      up[i] = cp * y[i] - sp * back;
      near[i] = sp * y[i] + cp * back;
    }
    return [across, up, near];
  }

  const circles = (() => {
    const arc = Array.from({ length: 73 }, (_, step) => step * 5 * RADIANS);
    const meridians = [0, 30, 60, 90, 120, 150].map((degrees) => {
      const [c, s] = [Math.cos(degrees * RADIANS), Math.sin(degrees * RADIANS)];
      return [arc.map((a) => Math.cos(a) * c), arc.map((a) => Math.sin(a)), arc.map((a) => Math.cos(a) * s)];
    });
    const parallels = [-60, -30, 0, 30, 60].map((degrees) => {
      const [c, s] = [Math.cos(degrees * RADIANS), Math.sin(degrees * RADIANS)];
      return [arc.map((a) => Math.cos(a) * c), arc.map(() => s), arc.map((a) => Math.sin(a) * c)];
    });
    return [...meridians, ...parallels];
  })();

  let shownOnSphere = null;
  function drawSphere() {
    shownOnSphere = current().sphere.map(rotated);
    modalities.forEach((name, number) => {
      const [x, y, near] = shownOnSphere[number];
      i0t.model("sphere", name).data = { x, y, alpha: near.map((z) => (z >= 0 ? 0.85 : 0.15)) };
    });
    const front = circles.map((line) => rotated(line)).map(([x, y, near]) => {
      const hidden = (values) => Array.from(values, (value, i) => (near[i] >= 0 ? value : NaN));
      return [hidden(x), hidden(y)];
    });
    i0t.model("sphere", "circles").data = { xs: front.map(([x]) => x), ys: front.map(([, y]) => y) };
    drawPicked();
  }

  let frame = 0;
  function turn(changed) {
    angles = { turn: ((angles.turn + 180 + (changed.turn ?? 0)) % 360 + 360) % 360 - 180,
      tilt: Math.max(-90, Math.min(90, angles.tilt + (changed.tilt ?? 0))) };
    element("turn").value = angles.turn;
    element("tilt").value = angles.tilt;
    hideTip();
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawSphere);
  }

  function letTurn() {
    const place = element("figure-sphere");
    let last = null;
    place.addEventListener("pointerdown", (event) => { last = [event.clientX, event.clientY]; });
    window.addEventListener("pointermove", (event) => {
      if (last === null || event.buttons === 0) return;
      const degrees = 180 / place.clientWidth;
      const [across, down] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      turn({ turn: across * degrees, tilt: event.pointerType === "touch" ? 0 : down * degrees });
    });
    for (const name of ["pointerup", "pointercancel"]) window.addEventListener(name, () => { last = null; });
    for (const name of ["turn", "tilt"]) {
      element(name).addEventListener("input", (event) => turn({ [name]: Number(event.target.value) - angles[name] }));
    }
  }

  // ---- the point under the pointer

  function shown(figure) {
    if (figure === "plane") return current().plane;
    return shownOnSphere;
  }

  function nearest(figure, event) {
    const plot = i0t.model(figure, "plot");
    const scale = [plot.inner_width / (plot.x_range.end - plot.x_range.start),
      plot.inner_height / (plot.y_range.end - plot.y_range.start)];
    let best = null;
    let least = CATCH ** 2;
    shown(figure).forEach(([x, y, near], number) => {
      for (let i = 0; i < x.length; i++) {
        if (near !== undefined && near[i] < 0) continue;
        const distance = ((x[i] - event.x) * scale[0]) ** 2 + ((y[i] - event.y) * scale[1]) ** 2;
        if (distance < least) { least = distance; best = { modality: number, index: i }; }
      }
    });
    return best;
  }

  function drawPicked() {
    for (const figure of ["plane", "sphere"]) {
      const chosen = picked === null ? [] : points.paired ? [0, 1] : [picked.modality];
      const places = chosen.map((number) => shown(figure)[number].map((column) => column[picked.index]));
      i0t.model(figure, "picked").data = { x: places.map(([x]) => x), y: places.map(([, y]) => y) };
    }
  }

  const number = (value) => value.toFixed(3).replace("-", "\u2212");

  function fillTip() {
    const { modality, index } = picked;
    const tile = element("tip-photo");
    const hasPhoto = points.sprite !== null && (points.paired || modality === 0);
    tile.hidden = !hasPhoto;
    if (hasPhoto) {
      tile.style.backgroundSize = `${points.sprite.columns * TILE}px ${points.sprite.rows * TILE}px`;
      tile.style.backgroundPosition =
        `-${(index % points.sprite.columns) * TILE}px -${Math.floor(index / points.sprite.columns) * TILE}px`;
    }
    // textContent: whatever a caption holds is shown, never read as HTML.
    element("tip-kind").textContent = modality === 0 ? `image: ${points.images[index]}` : "text";
    element("tip-text").textContent = points.paired || modality === 1 ? points.texts[index] : "";
    element("tip-cosine").textContent = points.paired
      ? `cosine of the two: ${number(current().cosines[index])}` : "";
  }

  function showTip(figure, event) {
    const tip = element("tip");
    fillTip();
    tip.hidden = false;
    const place = element(`figure-${figure}`).getBoundingClientRect();
    const [across, down] = [place.left + event.sx, place.top + event.sy];
    const right = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const below = window.innerHeight - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, Math.min(across + 18, right))}px`;
    const fits = down + 18 <= below;
    tip.style.top = `${Math.max(8, fits ? down + 18 : down - tip.offsetHeight - 18)}px`;
  }

  function hideTip() {
    element("tip").hidden = true;
    if (picked === null) return;
    picked = null;
    drawPicked();
  }

  function letPoint(figure) {
    const plot = i0t.model(figure, "plot");
    const point = (event) => {
      const found = nearest(figure, event);
      if (found === null) { hideTip(); return; }
      if (picked === null || found.index !== picked.index || found.modality !== picked.modality) {
        picked = found;
        drawPicked();
      }
      showTip(figure, event);
    };
    plot.on_event("mousemove", point);
    plot.on_event("tap", point);
    plot.on_event("mouseleave", () => { if (!touched) hideTip(); }); // a finger leaves as soon as it is lifted
  }

  function letGo() {
    for (const name of ["pointerdown", "pointermove"]) {
      window.addEventListener(name, (event) => { touched = event.pointerType === "touch"; }, { capture: true });
    }
    window.addEventListener("pointerdown", (event) => {
      if (event.target.closest?.("#figure-plane, #figure-sphere") == null) hideTip();
    });
    window.addEventListener("scroll", hideTip, { passive: true });
  }

  // ---- the chosen state

  // JSON has no NaN, and a null would be drawn as zero.
  const filled = (columns) => Object.fromEntries(Object.entries(columns).map(
    ([name, values]) => [name, values.map((value) => value ?? NaN)]));

  function fill(figure) {
    const found = switched[figure][points.states[state].name];
    for (const [name, columns] of Object.entries(switched[figure][Object.keys(switched[figure])[0]])) {
      const source = i0t.model(figure, name);
      const empty = Object.fromEntries(Object.keys(columns).map((column) => [column, []]));
      source.data = found === undefined ? empty : filled(found[name]);
    }
    const note = element(`missing-${figure}`);
    note.hidden = found !== undefined;
    note.textContent = found === undefined ? `Not measured for ${points.states[state].name}.` : "";
  }

  function show(chosen) {
    state = chosen;
    hideTip();
    drawPlane();
    drawSphere();
    element("held").textContent = points.states[state].held;
    Object.keys(switched).forEach(fill);
    document.documentElement.dataset.state = String(state);
  }

  for (const choice of document.querySelectorAll('input[name="state"]')) {
    choice.addEventListener("change", () => show(Number(choice.value)));
  }
  element("join-pairs")?.addEventListener("change", drawJoins);
  for (const place of document.querySelectorAll(".needs-script")) place.hidden = false;
  for (const place of document.querySelectorAll("details.pictures")) place.open = false;
  element("without-scripts").hidden = true;
  ["plane", "sphere"].forEach(letPoint);
  letTurn();
  letGo();
  show(Number(document.querySelector('input[name="state"]:checked').value));
});
