"use strict";
// The page of a comparison: one map of changes.
(() => {
  const { data, byId, number, short, label, color, chart, axis, tooltip } = Page;
  const finite = (value) => (typeof value === "string" ? Number(value.replace("infinity", "Infinity")) : value);
  const signed = (value) => {
    const found = finite(value);
    return Number.isFinite(found) ? `${found > 0 ? "+" : ""}${found.toFixed(2)}` : number(found);
  };
  const shade = (bits) => {
    const size = Math.abs(bits);
    if (size < 0.05) return "d-0";
    const strength = size < 0.25 ? 1 : size < 1 ? 2 : 3;
    return `d-${bits > 0 ? "more" : "less"}-${strength}`;
  };
  const draw = chart("change-map", () => {
    if (data.cells.length === 0) return null;
    const left = Math.min(240, byId("change-map").clientWidth * 0.28 || 160);
    return {
      height: data.rows.length * 30 + 120,
      label: `Map of changes: ${data.rows.length} components by ${data.columns.length} columns, `
        + `${data.cells.filter((cell) => cell.significant).length} cells beyond noise.`,
      grid: { left, right: 12, top: 84, bottom: 8 },
      tooltip: {
        confine: true, backgroundColor: color("card"), borderColor: color("line"), textStyle: { color: color("ink") },
        formatter: ({ data: { cell } }) => tooltip(`${cell.row} · ${cell.column}`, [
          ["change", `${signed(cell.bits)} bits`], ["95 % interval", `${signed(cell.low)} to ${signed(cell.high)}`],
          ["adjusted p", cell.tested ? number(cell.p) : "not tested"], ["cases", String(cell.cases)]]),
      },
      xAxis: axis("", { type: "category", position: "top", data: data.columns.map((name) => label(name, 40)), axisTick: { show: false },
        axisLine: { show: false }, axisLabel: { interval: 0, width: 110, overflow: "break", lineHeight: 14, verticalAlign: "bottom", color: color("ink"), hideOverlap: false, fontSize: 11 } }),
      yAxis: axis("", { type: "category", inverse: true, data: data.rows.map((name) => label(name)), axisTick: { show: false },
        axisLine: { show: false }, axisLabel: { interval: 0, color: color("ink"), width: left - 16, overflow: "truncate", hideOverlap: false } }),
      visualMap: { show: false, min: 0, max: 1, dimension: 2, inRange: { opacity: 1 } },
      series: [{
        type: "heatmap", label: { show: true },
        data: data.cells.map((cell) => ({
          cell, value: [data.columns.indexOf(cell.column), data.rows.indexOf(cell.row), 0],
          itemStyle: { color: color(shade(cell.bits)), borderRadius: 4, borderWidth: 2, borderColor: color(cell.significant ? "ink" : "card") },
          label: { formatter: cell.same ? "=" : cell.tested ? signed(cell.bits) : `(${signed(cell.bits)})`, color: color(`${shade(cell.bits)}-ink`),
            fontWeight: cell.significant ? 700 : 400, fontSize: 11 },
        })),
      }],
    };
  });
  draw();
  Page.start();
  document.documentElement.dataset.ready = "true";
})();
