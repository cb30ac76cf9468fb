"use strict";
(() => {
  const find = (id) => document.getElementById(id);
  const make = (tag, name = "", text = "") => {
    const made = document.createElement(tag);
    made.className = name;
    made.textContent = text; // never as HTML: names of files are anybody's
    return made;
  };

  // Tables: a click on a head sorts by it, another turns the order. What has no value stays at the end.
  const valueOf = (row, column) => row.cells[column].textContent.trim();
  const NUMBER = /^[+-]?\d/;
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;

  function sort(table, column, descending) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row) => ({ row, text: valueOf(row, column) }));
    const nothing = ({ text }) => text === "–" || text === "";
    const numeric = rows.every((one) => nothing(one) || NUMBER.test(one.text));
    rows.sort((a, b) => {
      if (nothing(a) || nothing(b)) return nothing(a) - nothing(b);
      const order = numeric ? parseFloat(a.text) - parseFloat(b.text) : compare(a.text, b.text);
      return descending ? -order : order;
    });
    body.append(...rows.map(({ row }) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = make("button", "", head.textContent);
      button.type = "button";
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        sort(table, column, descending);
      });
    });
  }

  const picks = () => [...document.querySelectorAll(".pick")]; // in the order of the table
  if (!picks().length) return;

  // The viewer. Position and zoom are of the picture, so that all panes follow them, and so does the next picture.
  const stage = find("stage");
  const MOST_ZOOM = 16, STEP = 1.3, MOVE = 0.1, PIXELS_FROM = 3;
  const eye = { zoom: 1, x: 0.5, y: 0.5 }; // x, y: what is in the middle, in parts of the picture
  let chosen = null, data = null;

  const modeNow = () => document.querySelector("#mode input:checked").value;

  function look(zoom, x = eye.x, y = eye.y) {
    eye.zoom = Math.min(MOST_ZOOM, Math.max(1, zoom));
    const rim = 0.5 / eye.zoom;
    eye.x = Math.min(1 - rim, Math.max(rim, x));
    eye.y = Math.min(1 - rim, Math.max(rim, y));
    stage.style.setProperty("--zoom", eye.zoom);
    stage.style.setProperty("--dx", `${50 - 100 * eye.x * eye.zoom}%`);
    stage.style.setProperty("--dy", `${50 - 100 * eye.y * eye.zoom}%`);
    stage.classList.toggle("zoomed", eye.zoom > 1);
    stage.classList.toggle("pixels", eye.zoom >= PIXELS_FROM);
    find("zoom").textContent = `${Math.round(eye.zoom * 100)} %`;
  }

  // Zoom so that what is under a point of a pane (parts of its sides from the middle) stays there.
  function zoomAt(factor, px = 0, py = 0) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, eye.zoom * factor));
    look(zoom, eye.x + px / eye.zoom - px / zoom, eye.y + py / eye.zoom - py / zoom);
  }

  function setCut(percent) {
    find("cut").value = percent;
    stage.style.setProperty("--cut", `${find("cut").value}%`);
  }

  function layer(uri, label, name = "layer") {
    const box = make("div", name);
    const image = make("img");
    image.decoding = "async";
    image.alt = label;
    image.src = uri;
    image.draggable = false;
    box.append(image);
    return box;
  }

  function pane(layers, label, note) {
    const figure = make("figure", "pane");
    const frame = make("div", "frame");
    frame.style.aspectRatio = `${data.width} / ${data.height}`;
    frame.append(...layers);
    const caption = make("figcaption");
    caption.append(make("bdi", "", label), " ", make("span", "", note));
    figure.append(frame, caption);
    return figure;
  }

  // As many columns as there is room for, and rows as equal as they can be.
  const LEAST_WIDTH = 240;
  function arrange() {
    const most = Math.max(2, Math.floor(stage.clientWidth / LEAST_WIDTH));
    const rows = Math.ceil(stage.children.length / most);
    stage.style.setProperty("--columns", Math.ceil(stage.children.length / Math.max(1, rows)));
  }

  function draw() {
    const mode = modeNow();
    stage.classList.toggle("single", mode === "slider");
    find("sides").hidden = mode !== "slider";
    find("scale").hidden = mode !== "difference";
    find("other").textContent = data.views[data.comparedWith].label;
    if (mode === "slider") {
      const left = data.views[find("left").value], right = data.views[find("right").value];
      const both = [layer(left.picture, left.label), layer(right.picture, right.label, "layer over"), make("div", "handle")];
      const single = pane(both, `${left.label} | ${right.label}`, "");
      single.style.maxWidth = `min(100%, ${(80 * data.width) / data.height}vh)`;
      stage.replaceChildren(single);
    } else {
      const kind = mode === "difference" ? "difference" : "picture";
      const views = data.views.filter((view) => view[kind]);
      stage.replaceChildren(...views.map((view) => pane([layer(view[kind], view.label)], view.label, view.note)));
    }
    arrange();
    look(eye.zoom);
  }

  // The sides of the slider keep their places among the views from one picture to the next.
  function offer(select, fallback) {
    const before = select.selectedIndex;
    select.replaceChildren(...data.views.map((view, index) => {
      const option = make("option", "", view.label);
      option.value = index;
      return option;
    }));
    select.selectedIndex = before >= 0 && before < data.views.length ? before : fallback;
  }

  function choose(button) {
    chosen?.closest("tr").classList.remove("chosen");
    chosen?.removeAttribute("aria-current");
    chosen = button;
    chosen.setAttribute("aria-current", "true");
    chosen.closest("tr").classList.add("chosen");
    data = JSON.parse(find(`case-${button.dataset.case}`).textContent);
    find("viewer").hidden = false;
    find("name").textContent = data.name;
    find("part").textContent = data.part;
    const before = data.views.findIndex((view, index) => index !== data.main && index > 0);
    offer(find("left"), data.main > 0 ? Math.min(1, data.main - 1) : before);
    offer(find("right"), data.main);
    draw();
  }

  function step(by) {
    const all = picks();
    choose(all[(all.indexOf(chosen) + by + all.length) % all.length]);
    const box = find("pictures"), row = chosen.closest("tr");
    box.scrollTop = row.offsetTop - box.clientHeight / 2; // only the list moves, not the page
  }

  function setMode(mode) {
    document.querySelector(`#mode input[value=${mode}]`).checked = true;
    draw();
  }

  find("pictures").addEventListener("click", (event) => {
    const button = event.target.closest(".pick");
    if (!button) return;
    choose(button);
    find("viewer").scrollIntoView({ block: "start" });
  });
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  find("in").addEventListener("click", () => zoomAt(STEP));
  find("out").addEventListener("click", () => zoomAt(1 / STEP));
  find("whole").addEventListener("click", () => look(1));
  find("mode").addEventListener("change", draw);
  find("left").addEventListener("change", draw);
  find("right").addEventListener("change", draw);
  find("cut").addEventListener("input", () => setCut(find("cut").value));

  const anywhere = {
    n: () => step(1), p: () => step(-1), 0: () => look(1),
    "+": () => zoomAt(STEP), "=": () => zoomAt(STEP), "-": () => zoomAt(1 / STEP),
    1: () => setMode("all"), 2: () => setMode("slider"), 3: () => setMode("difference"),
  };
  const onStage = {
    ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1],
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const move = event.target === stage ? onStage[event.key] : undefined;
    if (move && eye.zoom === 1 && modeNow() === "slider" && move[0]) {
      setCut(+find("cut").value + 2 * move[0]);
    } else if (move && eye.zoom > 1) {
      look(eye.zoom, eye.x + (move[0] * MOVE) / eye.zoom, eye.y + (move[1] * MOVE) / eye.zoom);
    } else if (!move && Object.hasOwn(anywhere, event.key.toLowerCase())) {
      anywhere[event.key.toLowerCase()]();
    } else return;
    event.preventDefault();
  });

  // Mouse and fingers: one moves the pictures, or the slider where all is seen; two zoom.
  const fingers = new Map();
  const inFrame = (frame, event) => {
    const box = frame.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width - 0.5, (event.clientY - box.top) / box.height - 0.5];
  };
  const gap = () => {
    const [a, b] = [...fingers.values()];
    return Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY);
  };
  stage.addEventListener("wheel", (event) => {
    const frame = event.target.closest(".frame");
    if (!frame || (eye.zoom === 1 && event.deltaY > 0)) return; // the page scrolls
    event.preventDefault();
    zoomAt(event.deltaY < 0 ? STEP : 1 / STEP, ...inFrame(frame, event));
  }, { passive: false });
  stage.addEventListener("pointerdown", (event) => {
    const frame = event.target.closest(".frame");
    if (!frame) return;
    fingers.set(event.pointerId, event);
    stage.setPointerCapture(event.pointerId);
    if (modeNow() === "slider" && eye.zoom === 1) setCut(100 * (inFrame(frame, event)[0] + 0.5));
  });
  stage.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const frame = stage.querySelector(".frame"), box = frame.getBoundingClientRect();
    const apart = fingers.size === 2 ? gap() : 0;
    fingers.set(event.pointerId, event);
    if (fingers.size === 2) zoomAt(gap() / Math.max(1, apart));
    else if (eye.zoom > 1) {
      const dx = (event.clientX - before.clientX) / box.width, dy = (event.clientY - before.clientY) / box.height;
      look(eye.zoom, eye.x - dx / eye.zoom, eye.y - dy / eye.zoom);
    } else if (modeNow() === "slider") setCut(100 * (inFrame(frame, event)[0] + 0.5));
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }

  window.addEventListener("resize", arrange);
  setCut(50);
  choose(picks()[0]);
})();
