"use strict";
// The page of one run: filters, heat map, table of layers, a layer's section, and the charts.
(() => {
  const { data, byId, element, number, short, label, color, chart, axis, legend, stroke, tooltip, command } = Page;
  const { texts, columns, ulps, series, u, spelling, drifts } = data;
  const count = columns.ratio.length;
  const all = Array.from({ length: count }, (_, row) => row);
  const text = (name, row) => texts[name][columns[name][row]];
  const finite = (value) => (typeof value === "string" ? Number(value.replace("infinity", "Infinity")) : value);
  columns.ratio = columns.ratio.map((value) => (value === null ? Infinity : finite(value)));
  const RUNGS = ["f64", "f32", "bf16", "f16"].filter((rung) => texts.rung.includes(rung));

  // Layers are numbered in the order of the rows: their sections' addresses.
  const layers = [];
  const layerOf = new Int32Array(count);
  {
    const known = new Map();
    for (const row of all) {
      const key = columns.component[row] * texts.tensor.length + columns.tensor[row];
      if (!known.has(key)) {
        known.set(key, layers.length);
        layers.push([]);
      }
      layerOf[row] = known.get(key);
      layers[layerOf[row]].push(row);
    }
  }

  // --- filters -------------------------------------------------------------------------------------------
  const filters = { component: "", profile: "", rung: "", verdict: "", search: "" };
  let shown = all;
  const update = [];
  const apply = () => {
    const wanted = ["component", "profile", "rung", "verdict"].filter((name) => filters[name] !== "");
    const codes = wanted.map((name) => texts[name].indexOf(filters[name]));
    const search = filters.search.toLowerCase();
    const found = search === "" ? null : texts.tensor.map((name) => name.toLowerCase().includes(search));
    shown = all.filter((row) => wanted.every((name, place) => columns[name][row] === codes[place])
      && (found === null || found[columns.tensor[row]]));
    byId("shown").textContent = `${shown.length} of ${count} rows`;
    update.forEach((draw) => draw());
  };
  for (const name of Object.keys(filters)) {
    const field = byId(`filter-${name}`);
    field.addEventListener(name === "search" ? "input" : "change", () => {
      filters[name] = name === "search" || field.value === "" ? field.value : texts[name][Number(field.value)];
      apply();
    });
    if (name === "search") continue;
    texts[name].forEach((value, place) => field.append(element("option", { value: place }, short(value, 60))));
    if (texts[name].length === 1 && name !== "component") field.disabled = true;
  }
  const choose = (name, value) => {
    filters[name] = value;
    byId(`filter-${name}`).value = name === "search" ? value : value === "" ? "" : texts[name].indexOf(value);
  };
  byId("reset").addEventListener("click", () => {
    Object.keys(filters).forEach((name) => choose(name, ""));
    apply();
  });

  // --- heat map --------------------------------------------------------------------------------------------
  const headroom = (row) => (columns.ratio[row] === 0 ? Infinity : -Math.log2(columns.ratio[row]));
  const step = (row) => {
    if (text("verdict", row) === "fail") return "fail";
    if (text("verdict", row) === "ill-conditioned") return "ill";
    const bits = headroom(row);
    return bits < 1 ? "0" : bits < 2 ? "1" : bits < 4 ? "2" : bits < 8 ? "4" : "8";
  };
  const worse = (a, b) => {
    if (a === undefined) return b;
    const failed = (row) => (text("verdict", row) === "fail" ? 1 : 0);
    return failed(b) - failed(a) || columns.ratio[b] - columns.ratio[a] > 0 ? b : a;
  };
  const rowFacts = (row) => [
    ["verdict", text("verdict", row)],
    ["headroom", `${number(headroom(row))} bits`],
    ["error / allowed", number(columns.ratio[row])],
    ["port error", number(columns.port_rel_l2[row])],
    ["reference error", number(columns.reference_rel_l2[row])],
    ["cases", String(columns.cases[row])],
  ];
  const heat = () => {
    if (shown.length === 0) return null;
    const detailed = filters.component !== "" || texts.component.length === 1;
    const lines = new Map();
    const places = new Map();
    const cells = new Map();
    const profiles = texts.profile.filter((name) => filters.profile === "" || name === filters.profile);
    const rungs = RUNGS.filter((name) => filters.rung === "" || name === filters.rung);
    profiles.forEach((profile) => rungs.forEach((rung) => places.set(`${rung} ${profile}`, [profile, rung])));
    const names = [...places.keys()];
    const column = new Map(names.map((name, place) => [name, place]));
    const inOrder = detailed ? [...shown].sort((a, b) => columns.order[a] - columns.order[b]) : shown;
    for (const row of inOrder) {
      const line = detailed ? layerOf[row] : columns.component[row];
      if (!lines.has(line)) lines.set(line, lines.size);
      const place = column.get(`${text("rung", row)} ${text("profile", row)}`);
      const key = lines.get(line) * names.length + place;
      cells.set(key, worse(cells.get(key), row));
    }
    const labels = [...lines.keys()].map((line) => (detailed ? text("tensor", layers[line][0]) : texts.component[line]));
    const many = labels.length > 45;
    const wide = byId("heat").clientWidth || 900;
    const left = Math.min(280, Math.max(110, wide * 0.28));
    const roomy = (wide - left) / names.length > 34;
    const fails = [...cells.values()].filter((row) => text("verdict", row) === "fail").length;
    byId("heat-title").textContent = detailed
      ? `Layers of ${short(filters.component || texts.component[0], 60)}` : "Components, each at its worst layer";
    byId("heat-up").hidden = !(detailed && texts.component.length > 1);
    return {
      height: Math.min(labels.length, 45) * 26 + 120,
      label: `Heat map of headroom: ${labels.length} ${detailed ? "layers" : "components"} by ${names.length} combinations of `
        + `profile and rung, ${fails} cells failing. The same numbers are in the table of layers.`,
      grid: { left, right: many ? 40 : 12, top: 78, bottom: 8 },
      tooltip: {
        confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
        formatter: ({ data: cell }) => tooltip(
          `${text("component", cell.row)} · ${text("tensor", cell.row)}`,
          [["profile", short(text("profile", cell.row), 60)], ["rung", text("rung", cell.row)], ...rowFacts(cell.row)]),
      },
      xAxis: [
        axis("", { type: "category", position: "top", data: names.map((name) => places.get(name)[1]), axisTick: { show: false },
          axisLine: { show: false }, axisLabel: { interval: 0, fontSize: 11 } }),
        axis("", { type: "category", position: "top", offset: 24, data: profiles.map((name) => label(name, 24)),
          axisTick: { show: false }, axisLine: { show: false },
          axisLabel: { interval: 0, fontWeight: 600, color: color("ink"), width: ((wide - left) / profiles.length) - 6,
            overflow: "truncate" } }),
      ],
      yAxis: axis("", {
        type: "category", inverse: true, data: labels.map((name) => label(name)), axisTick: { show: false },
        axisLine: { show: false },
        axisLabel: { color: color("ink"), width: left - 16, overflow: "truncate", interval: 0, hideOverlap: false },
      }),
      dataZoom: many ? [
        { type: "slider", yAxisIndex: 0, right: 4, width: 16, startValue: 0, endValue: 44, showDetail: false, zoomLock: true,
          brushSelect: false },
        { type: "inside", yAxisIndex: 0, zoomOnMouseWheel: false, moveOnMouseWheel: "shift" },
      ] : [],
      series: [{
        type: "heatmap",
        label: { show: roomy },
        itemStyle: { borderColor: color("card"), borderWidth: 2, borderRadius: 4 },
        emphasis: { itemStyle: { borderColor: color("ink") } },
        data: [...cells].map(([key, row]) => {
          const kind = step(row);
          const bits = headroom(row);
          const word = kind === "fail" ? "FAIL" : kind === "ill" ? "ill" : Number.isFinite(bits) ? bits.toFixed(1) : "exact";
          return {
            value: [key % names.length, Math.floor(key / names.length), 0], row,
            itemStyle: { color: color(`h-${kind}`) },
            label: { color: color(`h-${kind}-ink`), formatter: word, fontSize: 11, fontWeight: kind === "fail" ? 700 : 400 },
          };
        }),
      }],
      visualMap: { show: false, min: 0, max: 1, dimension: 2, inRange: { opacity: 1 } },
    };
  };
  update.push(chart("heat", heat, ({ data: cell }) => {
    if (filters.component === "" && texts.component.length > 1) {
      choose("component", text("component", cell.row));
      apply();
    } else openLayer(layerOf[cell.row]);
  }));
  document.querySelectorAll("[data-component]").forEach((button) => button.addEventListener("click", () => {
    choose("component", texts.component[Number(button.dataset.component)]);
    apply();
    byId("headroom").scrollIntoView();
  }));
  byId("heat-up").addEventListener("click", () => { choose("component", ""); apply(); });

  // --- what moved against the baseline ---------------------------------------------------------------------
  if (drifts.length) {
    chart("drift", () => {
      const wide = byId("drift").clientWidth || 900;
      const left = Math.min(340, Math.max(120, wide * 0.34));
      const values = drifts.map((each) => [each.lower, each.drift, each.upper].map(finite));
      const margins = drifts.map((each) => finite(each.margin));
      const reach = 1.1 * Math.max(...[...values.flat(), ...margins].filter(Number.isFinite).map(Math.abs));
      const held = (value) => Math.max(-reach, Math.min(reach, value));
      return {
        height: drifts.length * 26 + 100,
        label: `Drift of ${drifts.length} tests with confidence bounds and margins, `
          + `${drifts.filter((each) => each.grew).length} beyond. The same numbers are in the table below.`,
        grid: { left, right: 20, top: 40, bottom: 48 },
        legend: legend([["drift and bounds"], ["margin"]]),
        tooltip: {
          confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
          formatter: ({ dataIndex }) => tooltip(drifts[dataIndex].name, [
            ["drift", `${number(drifts[dataIndex].drift)} bits`],
            ["bounds", `${number(drifts[dataIndex].lower)} to ${number(drifts[dataIndex].upper)}`],
            ["margin", number(drifts[dataIndex].margin)], ["cases", String(drifts[dataIndex].cases)]]),
        },
        xAxis: axis("drift in bits", { type: "value", min: -reach, max: reach, nameGap: 30,
          axisLabel: { formatter: (value) => number(Number(value.toPrecision(3))) } }),
        yAxis: axis("", { type: "category", inverse: true, data: drifts.map((each, place) => `${place + 1} ${label(each.name)}`),
          axisTick: { show: false }, axisLabel: { interval: 0, color: color("ink"), width: left - 16, overflow: "truncate" } }),
        series: [
          { name: "drift and bounds", type: "boxplot", boxWidth: [4, 10],
            data: values.map(([low, middle, high], place) => ({
              value: [held(low), held(middle), held(middle), held(middle), held(high)],
              itemStyle: { borderColor: color(drifts[place].grew ? "h-fail" : "s1"), borderWidth: 2 } })),
            itemStyle: { color: color("s1"), borderColor: color("s1") } },
          ...[1, -1].map((side) => ({ name: "margin", type: "scatter", symbol: "rect", symbolSize: [2, 16],
            itemStyle: { color: color("soft") }, data: margins.map((margin, place) => [side * held(margin), place]) })),
        ],
      };
    });
  }

  // --- table of layers -----------------------------------------------------------------------------------
  const SHOWN_AT_ONCE = 50;
  const COLUMNS = [
    ["component", (row) => short(text("component", row), 60), (row) => text("component", row)],
    ["tensor", null, (row) => text("tensor", row)],
    ["profile", (row) => short(text("profile", row), 60), (row) => text("profile", row)],
    ["rung", (row) => text("rung", row), (row) => RUNGS.indexOf(text("rung", row))],
    ["verdict", null, (row) => text("verdict", row)],
    ["headroom", (row) => number(headroom(row)), headroom],
    ["ratio", (row) => number(columns.ratio[row]), (row) => columns.ratio[row]],
    ["port_error", (row) => number(columns.port_rel_l2[row]), (row) => columns.port_rel_l2[row]],
    ["reference_error", (row) => number(columns.reference_rel_l2[row]), (row) => columns.reference_rel_l2[row]],
    ["port_over_reference", (row) => number(columns.port_over_reference[row]), (row) => columns.port_over_reference[row]],
    ["ulp", (row) => number(columns.ulp_p99[row]), (row) => finite(columns.ulp_p99[row])],
    ["correctly_rounded", (row) => (columns.correctly_rounded[row] === null ? "–"
      : `${(100 * columns.correctly_rounded[row]).toFixed(1)} %`), (row) => columns.correctly_rounded[row]],
  ];
  let sorting = { place: 6, down: true };
  let first = 0;
  // A long name may go on in the next line behind a point.
  const breakable = (name) => (name.length <= 30 ? [name]
    : name.split(/(?<=\.)/).flatMap((part, place) => (place ? [element("wbr"), part] : [part])));
  const chip = (row) => element("span", { class: `chip ${text("verdict", row)}` }, text("verdict", row));
  const table = () => {
    const key = COLUMNS[sorting.place][2];
    const keys = new Map(shown.map((row) => [row, key(row)]));
    const missing = sorting.down ? -Infinity : Infinity;
    const order = [...shown].sort((a, b) => {
      const one = keys.get(a) ?? missing;
      const other = keys.get(b) ?? missing;
      const way = one < other ? -1 : one > other ? 1 : 0;
      return (sorting.down ? -way : way) || a - b;
    });
    first = Math.max(0, Math.min(first, Math.floor((order.length - 1) / SHOWN_AT_ONCE) * SHOWN_AT_ONCE));
    const body = order.slice(first, first + SHOWN_AT_ONCE).map((row) => {
      const line = element("tr");
      COLUMNS.forEach(([name, show], place) => {
        const cell = name === "tensor"
          ? element("td", { class: "name" }, element("a", { href: `#layer-${layerOf[row]}` }, ...breakable(short(text("tensor", row)))))
          : name === "verdict" ? element("td", {}, chip(row))
            : element("td", { class: place > 4 ? "n" : name === "component" || name === "profile" ? "name" : "" }, show(row));
        line.append(cell);
      });
      return line;
    });
    byId("layer-rows").replaceChildren(...body);
    byId("layers-empty").hidden = order.length > 0;
    [...byId("layer-table").tHead.rows[0].cells].forEach((head, place) => {
      if (place === sorting.place) head.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    const last = Math.min(first + SHOWN_AT_ONCE, order.length);
    byId("pager-text").textContent = order.length ? `${first + 1} to ${last} of ${order.length}` : "";
    const single = order.length <= SHOWN_AT_ONCE;
    byId("pager-back").hidden = single;
    byId("pager-on").hidden = single;
    byId("pager-back").disabled = first === 0;
    byId("pager-on").disabled = last >= order.length;
  };
  [...byId("layer-table").tHead.rows[0].cells].forEach((head, place) => {
    head.querySelector(".sort").addEventListener("click", () => {
      sorting = { place, down: sorting.place === place ? !sorting.down : place > 4 };
      first = 0;
      table();
    });
  });
  byId("pager-back").addEventListener("click", () => { first -= SHOWN_AT_ONCE; table(); });
  byId("pager-on").addEventListener("click", () => { first += SHOWN_AT_ONCE; table(); });
  update.push(() => { first = 0; table(); });

  // --- a layer's section -----------------------------------------------------------------------------------
  const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);
  const rerun = (row) => {
    const component = text("component", row);
    const profile = text("profile", row);
    const spelt = (kind, name) => {
      const known = spelling[kind] || {};
      return Object.hasOwn(known, name) ? known[name] : name;
    };
    return ["parity", "run", quoted(spelt("components", component)), "--profile", quoted(spelt("profiles", profile)),
      "--rung", text("rung", row), "--case", quoted(text("worst_case", row))].join(" ");
  };
  let open = null;
  let ulpRow = null;
  const openLayer = (place) => {
    if (location.hash === `#layer-${place}`) showLayer();
    else location.hash = `layer-${place}`;
  };
  const showLayer = () => {
    const found = /^#layer-(\d+)$/.exec(location.hash);
    const section = byId("layer");
    if (!found || !(Number(found[1]) in layers)) {
      open = null;
      section.hidden = true;
      return;
    }
    open = Number(found[1]);
    const rows = layers[open];
    section.hidden = false;
    byId("layer-name").textContent = short(text("tensor", rows[0]));
    byId("layer-component").textContent = `of ${short(text("component", rows[0]))}, ${text("kind", rows[0])}`;
    byId("layer-lines").replaceChildren(...rows.map((row) => element("tr", {},
      element("td", { class: "name" }, short(text("profile", row), 60)), element("td", {}, text("rung", row)), element("td", {}, chip(row)),
      ...[columns.ratio, null, columns.port_rel_l2, columns.reference_rel_l2, columns.port_over_reference, columns.ulp_p50,
        columns.ulp_p99, columns.ulp_max, columns.kappa, columns.bias].map((values) =>
        element("td", { class: "n" }, number(values === null ? headroom(row) : values[row]))),
      element("td", { class: "n" }, `${columns.cases_failed[row]} / ${columns.cases[row]}`),
    )));
    const worst = rows.reduce(worse, undefined);
    const reason = text("reason", worst);
    byId("layer-worst").replaceChildren(
      element("p", {}, `Nearest to its limit: ${short(text("profile", worst), 60)} at ${text("rung", worst)}, error / allowed `
        + `${number(columns.ratio[worst])}${reason ? `; ${short(reason)}` : ""}. See that case again:`),
      command(rerun(worst)));
    ulpRow = rows.filter((row) => text("rung", row) !== "f64" && ulps.port[row].length).reduce(worse, undefined) ?? rows[0];
    drawLayer();
    section.focus({ preventScroll: true });
    section.scrollIntoView();
  };
  byId("layer-close").addEventListener("click", () => {
    history.pushState(null, "", location.pathname + location.search);
    showLayer();
    byId("layers").scrollIntoView();
    byId("layers-title").focus({ preventScroll: true });
  });
  window.addEventListener("hashchange", showLayer);

  // --- port against reference ----------------------------------------------------------------------------
  const SYMBOLS = { f64: "circle", f32: "circle", bf16: "diamond", f16: "triangle" };
  const HUES = { f64: "s4", f32: "s1", bf16: "s2", f16: "s3" };
  const scatter = () => {
    const rows = shown.filter((row) => text("rung", row) !== "f64" && columns.port_rel_l2[row] > 0 && columns.reference_rel_l2[row] > 0);
    const out = shown.length - rows.length;
    byId("scatter-left").textContent = out
      ? ` ${out} rows are not drawn: f64, where the reference is the truth, and errors of exactly 0.` : "";
    if (rows.length === 0) return null;
    let low = Infinity;
    let high = 0;
    for (const row of rows) {
      low = Math.min(low, columns.port_rel_l2[row], columns.reference_rel_l2[row]);
      high = Math.max(high, columns.port_rel_l2[row], columns.reference_rel_l2[row]);
    }
    const ends = [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high) + 1e-9)];
    const line = (name, factor, type) => ({
      name, type: "line", silent: true, symbol: "none", tooltip: { show: false }, z: 1,
      lineStyle: { color: color("soft"), ...stroke(type) }, itemStyle: { color: color("soft") },
      data: [[ends[0], ends[0] * factor], [ends[1] / factor, ends[1]]],
    });
    const power = (value) => `1e${Math.round(Math.log10(value))}`;
    return {
      height: 420,
      label: `Port error against reference error of ${rows.length} rows, both logarithmic; points on the diagonal err alike.`,
      grid: { left: 64, right: 20, top: 40, bottom: 48 },
      legend: legend([["equal", "solid"], ["one bit lost", "dashed"], ...RUNGS.filter((rung) => rows.some((row) => text("rung", row) === rung)).map((rung) => [rung])]),
      tooltip: {
        confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
        formatter: ({ data: point }) => tooltip(`${text("component", point[2])} · ${text("tensor", point[2])}`,
          [["profile", short(text("profile", point[2]), 60)], ["rung", text("rung", point[2])], ...rowFacts(point[2])]),
      },
      xAxis: axis("reference error (rel L2)", { type: "log", min: ends[0], max: ends[1], nameGap: 30, axisLabel: { formatter: power } }),
      yAxis: axis("port error (rel L2)", { type: "log", min: ends[0], max: ends[1], nameGap: 46, axisLabel: { formatter: power } }),
      series: [
        line("equal", 1, "solid"), line("one bit lost", 2, "dashed"),
        ...RUNGS.filter((rung) => rung !== "f64").map((rung) => ({
          name: rung, type: "scatter", symbol: SYMBOLS[rung], symbolSize: 7,
          itemStyle: { color: color(HUES[rung]), opacity: 0.65 },
          data: rows.filter((row) => text("rung", row) === rung)
            .map((row) => [columns.reference_rel_l2[row], columns.port_rel_l2[row], row]),
        })).filter((each) => each.data.length),
      ],
    };
  };
  update.push(chart("scatter", scatter, ({ data: point }) => point && point[2] !== undefined && openLayer(layerOf[point[2]])));

  // --- error against length ----------------------------------------------------------------------------
  const median = (values) => {
    const sorted = [...values].sort((a, b) => a - b);
    return sorted[Math.floor((sorted.length - 1) / 2)];
  };
  const chosenSeries = () => {
    const fits = series.filter((each) => (filters.component === "" || each.component === filters.component)
      && (filters.profile === "" || each.profile === filters.profile) && (filters.rung === "" || each.rung === filters.rung));
    const field = byId("length-series");
    const before = field.value;
    const spread = (each) => new Set(each.length).size + (each.rung === "f32" ? 0.5 : 0);
    field.replaceChildren(...fits.map((each) => element("option", { value: series.indexOf(each) },
      short(`${each.component} · ${each.tensor} · ${each.profile} · ${each.rung}`, 90))));
    if (fits.some((each) => String(series.indexOf(each)) === before)) field.value = before;
    else if (fits.length) field.value = series.indexOf(fits.reduce((best, each) => (spread(each) > spread(best) ? each : best)));
    return fits.length ? series[Number(field.value)] : null;
  };
  const lengths = (refill = true) => () => {
    const each = refill ? chosenSeries() : series[Number(byId("length-series").value)];
    if (!each) return null;
    const unit = u[each.rung];
    const points = (values) => each.length.map((length, place) => [length, values[place] / unit, each.case[place]])
      .filter(([length, error]) => length > 0 && error > 0);
    const predicted = points(each.predicted);
    const known = [...new Set(predicted.map(([length]) => length))].sort((a, b) => a - b);
    const middle = known.map((length) => [length, median(predicted.filter(([x]) => x === length).map(([, y]) => y))]);
    const guide = (name, growth, type) => ({
      name, type: "line", symbol: "none", silent: true, tooltip: { show: false },
      lineStyle: { color: color("soft"), ...stroke(type) }, itemStyle: { color: color("soft") },
      data: middle.length < 2 ? [] : known.map((length) => [length, middle[0][1] * growth(length) / growth(known[0])]),
    });
    const dots = (name, values, hue, symbol) => ({
      name, type: "scatter", symbol, symbolSize: 9, data: points(values),
      itemStyle: symbol === "diamond" ? { color: "transparent", borderColor: color(hue), borderWidth: 2 }
        : { color: color(hue), opacity: 0.85 },
    });
    const found = [...points(each.port), ...points(each.reference), ...predicted];
    if (found.length === 0) return null;
    return {
      height: 420,
      label: `Error of ${short(each.component, 60)} against length, ${each.length.length} cases, with the predicted error and its growth.`,
      grid: { left: 64, right: 20, top: 62, bottom: 48 },
      legend: legend([["port"], ...(each.rung === "f64" ? [] : [["reference"]]), ["predicted (median)", "solid"],
        ["grows as √log₂ 2n", "dashed"], ["grows as √n", "dotted"]]),
      tooltip: {
        confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
        formatter: ({ data: point, seriesName }) => tooltip(seriesName, [["length", String(point[0])], ["error", `${number(point[1])} u`]]),
      },
      xAxis: axis("length", { type: "log", logBase: 2, nameGap: 30, min: "dataMin", max: "dataMax" }),
      yAxis: axis("error in u (rel L2)", { type: "log", nameGap: 46, axisLabel: { formatter: (value) => number(value) } }),
      series: [
        dots("port", each.port, "s1", "circle"),
        ...(each.rung === "f64" ? [] : [dots("reference", each.reference, "s2", "diamond")]),
        { name: "predicted (median)", type: "line", symbol: "none", data: middle, silent: true, tooltip: { show: false },
          lineStyle: { color: color("s3"), width: 2.5 }, itemStyle: { color: color("s3") } },
        guide("grows as √log₂ 2n", (n) => Math.sqrt(Math.log2(2 * n)), "dashed"),
        guide("grows as √n", Math.sqrt, "dotted"),
      ],
    };
  };
  update.push(chart("length", lengths()));
  byId("length-series").addEventListener("change", () => update.forEach((draw) => draw()));

  // --- histograms ------------------------------------------------------------------------------------------
  const BINS = ["< 1/16", ...ulps.edges.map((edge) => (edge < 1 ? `1/${1 / edge}` : String(edge)))];
  const histogram = (rows, what) => {
    const sum = (side) => rows.reduce((total, row) => {
      ulps[side][row].forEach((found, place) => { total[place] += found; });
      return total;
    }, BINS.map(() => 0));
    const sides = { port: sum("port"), reference: sum("reference") };
    const shares = Object.fromEntries(Object.entries(sides).map(([side, counts]) => {
      const total = counts.reduce((a, b) => a + b, 0);
      return [side, total ? counts.map((found) => (100 * found) / total) : null];
    }));
    if (shares.port === null) return null;
    const bars = (name, hue, more) => ({
      name, type: "bar", data: shares[name], barGap: "-100%", barCategoryGap: "12%", ...more(color(hue)),
    });
    const total = sides.port.reduce((a, b) => a + b, 0);
    return {
      height: 340,
      label: `Histogram of errors in ulps, ${total} elements of ${what}, port and reference over each other.`,
      grid: { left: 56, right: 12, top: 40, bottom: 62 },
      legend: legend([["port"], ...(shares.reference === null ? [] : [["reference"]])]),
      tooltip: {
        trigger: "axis", confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
        formatter: (found) => tooltip(`from ${found[0].name} ulp`, found.map((bar) => [bar.seriesName, `${number(bar.value)} %`])),
      },
      xAxis: axis("error in ulps, from …", { type: "category", data: BINS, nameGap: 44, axisLabel: { rotate: 40 } }),
      yAxis: axis("% of elements", { type: "value", nameGap: 40 }),
      series: [
        bars("port", "s1", (hue) => ({ itemStyle: { color: hue, opacity: 0.55 } })),
        ...(shares.reference === null ? [] : [bars("reference", "s2", (hue) => ({
          itemStyle: { color: "transparent", borderColor: hue, borderWidth: 2 } }))]),
      ],
    };
  };
  const ulpRungs = RUNGS.filter((rung) => rung !== "f64");
  byId("ulp-rung").append(...[...ulpRungs, ...RUNGS.filter((rung) => rung === "f64")].map((rung) => element("option", {}, rung)));
  update.push(chart("ulps", () => {
    const field = byId("ulp-rung");
    if (filters.rung !== "") field.value = filters.rung;
    return histogram(shown.filter((row) => text("rung", row) === field.value), `${field.value}, the rows that the filters leave`);
  }));
  byId("ulp-rung").addEventListener("change", () => update.forEach((draw) => draw()));
  const drawLayer = chart("layer-ulps", () => {
    if (open === null || ulpRow === null) return null;
    byId("layer-ulps-what").textContent = `${short(text("profile", ulpRow), 60)} at ${text("rung", ulpRow)}, all cases together.`;
    return histogram([ulpRow], short(text("tensor", ulpRow), 60));
  });

  apply();
  Page.start();
  showLayer();
  document.documentElement.dataset.ready = "true";
})();
