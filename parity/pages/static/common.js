"use strict";
// What every page has: theme, copying of commands, sortable tables, and the frame around a chart.
const Page = (() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  const element = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === "class") made.className = value;
      else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  };

  const number = (value) => {
    if (value === null || value === undefined) return "–";
    const found = typeof value === "string" ? Number(value.replace("infinity", "Infinity")) : value;
    if (!Number.isFinite(found)) return Number.isNaN(found) ? "NaN" : found > 0 ? "∞" : "-∞";
    if (found === 0) return "0";
    const size = Math.abs(found);
    return size >= 1e-3 && size < 1e5 ? String(Number(found.toPrecision(3))) : found.toExponential(1);
  };

  // The middle of a long name is left out; the whole one is in the files.
  const short = (text, most = 160) => {
    const line = text.replace(/[\s\u0000-\u001f]+/g, " ");
    return line.length <= most ? line : `${line.slice(0, most / 2)} … ${line.slice(-most / 2)}`;
  };

  // A chart's label. The library keeps texts as keys of plain objects, so that "__proto__" would change every object: a
  // name that an object has by birth gets a blank of no width.
  const label = (text, most = 60) => {
    const cropped = short(text, most);
    return cropped in Object.prototype ? `\u200b${cropped}` : cropped;
  };

  const color = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  // --- theme ---------------------------------------------------------------------------------------------
  const drawn = [];
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const redraw = () => {
    const button = byId("theme");
    button.textContent = isDark() ? "Light theme" : "Dark theme";
    drawn.forEach((draw) => draw());
  };
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    redraw();
  });
  dark.addEventListener("change", redraw);

  // --- charts --------------------------------------------------------------------------------------------
  // `option` is asked for again when theme or filters change; null means that there is nothing to draw.
  const chart = (id, option, onClick) => {
    const place = byId(id);
    let shown = null;
    const draw = () => {
      const wanted = option();
      const empty = byId(`${id}-empty`);
      place.hidden = wanted === null;
      if (empty) empty.hidden = wanted !== null;
      if (wanted === null) return;
      const { height, label, ...rest } = wanted;
      if (height) place.style.height = `${height}px`;
      if (label) place.setAttribute("aria-label", label);
      if (shown === null) {
        shown = echarts.init(place, null, { renderer: "canvas" });
        if (onClick) shown.on("click", onClick);
        new ResizeObserver(() => shown.resize()).observe(place);
      } else shown.resize();
      shown.setOption({ ...base(), ...rest }, { notMerge: true });
    };
    // A chart far below is drawn when it comes near: the first screen waits for none of them.
    let near = false;
    const later = () => { if (near) draw(); };
    new IntersectionObserver((entries, watcher) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      watcher.disconnect();
      near = true;
      draw();
    }, { rootMargin: "600px" }).observe(place.parentElement);
    drawn.push(later);
    // Paper has no scrolling: all of it is near.
    window.addEventListener("beforeprint", () => { near = true; draw(); });
    return later;
  };

  const base = () => ({
    animation: false,
    backgroundColor: "transparent",
    textStyle: { color: color("ink"), fontFamily: getComputedStyle(document.body).fontFamily },
    tooltip: {
      confine: true,
      backgroundColor: color("card"),
      borderColor: color("line"),
      textStyle: { color: color("ink") },
    },
  });

  const axis = (name, more = {}) => ({
    name,
    nameLocation: "middle",
    nameTextStyle: { color: color("soft") },
    axisLine: { lineStyle: { color: color("line") } },
    axisLabel: { color: color("soft"), hideOverlap: true, ...more.axisLabel },
    splitLine: { lineStyle: { color: color("grid") } },
    ...Object.fromEntries(Object.entries(more).filter(([key]) => key !== "axisLabel")),
  });

  // A legend shows a line as a line, dashed as it is drawn, and no dot on it.
  const DASHES = { solid: [[0, 30]], dashed: [[0, 8], [11, 19], [22, 30]], dotted: [[0, 3], [9, 12], [18, 21], [27, 30]] };
  const PATTERNS = { solid: "solid", dashed: [9, 5], dotted: [2, 6] };
  const stroke = (type, width = 2) => ({ type: PATTERNS[type], width, cap: "butt" });
  const legend = (entries) => ({
    top: 0, itemWidth: 24, itemHeight: 12, textStyle: { color: color("soft") }, inactiveColor: color("line"),
    data: entries.map(([name, line]) => (line === undefined ? { name } : { name, icon:
      `path://${["M0 0h30v0H0z M0 12h30v0H0z", ...DASHES[line].map(([from, to]) => `M${from} 4H${to}V8H${from}z`)].join(" ")}` })),
  });

  // Tooltips are made of elements, never of markup: names come from anywhere.
  const tooltip = (title, pairs) =>
    element("div", { class: "tooltip" }, element("strong", {}, short(title)),
      element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])));

  // --- what scrolls ---------------------------------------------------------------------------------------
  const hinted = (place) => {
    const tell = () => {
      const right = place.scrollWidth - place.clientWidth - place.scrollLeft > 2;
      const below = place.scrollHeight - place.clientHeight - place.scrollTop > 2;
      place.dataset.hides = [place.scrollLeft > 2 && "left", right && "right", below && "below"].filter(Boolean).join(" ");
    };
    const watcher = new ResizeObserver(tell);
    [place, ...place.children].forEach((each) => watcher.observe(each));
    place.addEventListener("scroll", tell, { passive: true });
    return place;
  };
  document.querySelectorAll(".scroll, .command code").forEach(hinted);

  // --- commands ------------------------------------------------------------------------------------------
  const copy = async (button, text) => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      const range = document.createRange();
      range.selectNodeContents(button.parentElement.querySelector("code"));
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (button) copy(button, button.parentElement.querySelector("code").textContent);
  });
  const command = (text) =>
    element("div", { class: "command" }, hinted(element("code", { tabindex: "0" }, text)),
      element("button", { type: "button", class: "button", "data-copy": true }, "Copy"));

  // --- tables that the page came with ------------------------------------------------------------------------
  const sortKey = (cell) => {
    const given = cell.dataset.value ?? cell.textContent.trim();
    const found = Number(given);
    return given === "" || Number.isNaN(found) ? given : found;
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b
    : typeof a === typeof b ? String(a).localeCompare(String(b)) : typeof a === "number" ? -1 : 1);
  document.querySelectorAll("table[data-sortable]").forEach((table) => {
    const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
    heads.forEach((head, place) => {
      const button = head.querySelector(".sort");
      if (!button) return;
      button.addEventListener("click", () => {
        const order = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", order);
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => compare(sortKey(a.cells[place]), sortKey(b.cells[place])) * (order === "ascending" ? 1 : -1));
        table.tBodies[0].append(...rows);
      });
    });
  });

  const data = JSON.parse(byId("data").textContent);
  const start = () => redraw();
  return { data, byId, element, number, short, label, color, chart, axis, legend, stroke, tooltip, command, start };
})();
