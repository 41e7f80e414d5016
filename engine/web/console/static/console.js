"use strict";
// What the pages do beyond HTML and htmx: charts, dialogs where the browser has no `command`, one send per form.

(() => {
  const property = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // A colour as the theme has it: a canvas knows no light-dark().
  const probe = document.createElement("span");
  const colourOf = (name) => {
    if (!probe.isConnected) { probe.hidden = true; document.body.append(probe); }
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const language = document.documentElement.lang;
  const written = {
    number: new Intl.NumberFormat(language, {maximumFractionDigits: 3}),
    percent: new Intl.NumberFormat(language, {style: "percent", maximumFractionDigits: 2}),
  };

  function axis(format, more) {
    const line = {stroke: colourOf("--line"), width: 1};
    return {
      stroke: colourOf("--dim"), font: `12px ${property("--text")}`, labelFont: `12px ${property("--text")}`,
      grid: line, ticks: {...line, size: 4}, values: (_, all) => all.map(format), ...more,
    };
  }

  function options(told, width) {
    const y = (value) => (value === null ? "" : written[told.format].format(value));
    const labels = told.x.some((at) => typeof at === "string") ? told.x : null;
    const x = (at) => (labels ? (labels[at] ?? "") : written.number.format(at));
    const bars = told.kind === "bars", scatter = told.kind === "scatter";
    const series = told.series.map((one, n) => {
      const colour = colourOf(`--chart-${(n % 4) + 1}`);
      const look = {label: one.label, stroke: colour, width: 2, points: {show: scatter, size: 7, fill: colour}};
      if (bars) return {...look, width: 0, fill: colour, paths: uPlot.paths.bars({size: [0.7, 40]}), points: {show: false}};
      if (scatter) return {...look, paths: () => null};
      return look;
    });
    if (told.diagonal) series.push({label: "", stroke: colourOf("--dim"), dash: [4, 4], width: 1, points: {show: false}});
    const low = labels ? -0.6 : bars ? Math.min(...told.x) - 0.6 : null;
    const high = labels ? labels.length - 0.4 : bars ? Math.max(...told.x) + 0.6 : null;
    return {
      width, height: 220,
      legend: {show: told.series.length > 1},
      cursor: {drag: {x: false, y: false}},
      scales: {x: {time: false, ...(low === null ? {} : {range: [low, high]})}, y: {range: (_, least, most) => [Math.min(0, least ?? 0), (most || 1) * 1.08]}},
      axes: [axis(x, {label: told.xLabel || undefined, labelSize: 20, incrs: labels || bars ? [1, 2, 3, 4, 6, 12, 24] : undefined}), axis(y, {size: 56})],
      series: [{value: (_, at) => (at === null ? "" : x(at))}, ...series.map((one) => ({...one, value: (_, v) => (v === null ? "–" : y(v))}))],
    };
  }

  const drawn = new Map();

  function draw(place) {
    const told = JSON.parse(place.dataset.chart);
    drawn.get(place)?.destroy();
    const labels = told.x.some((at) => typeof at === "string");
    const xs = labels ? told.x.map((_, n) => n) : told.x;
    const data = [xs, ...told.series.map((one) => one.values)];
    if (told.diagonal) data.push(xs);
    drawn.set(place, new uPlot(options(told, place.clientWidth || 320), data, place));
  }

  function drawAll(root) {
    for (const [place, plot] of drawn) if (!place.isConnected) { plot.destroy(); drawn.delete(place); }
    if (typeof uPlot === "undefined") return;
    for (const place of root.querySelectorAll("[data-chart]")) draw(place);
  }

  let waiting;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(() => drawAll(document), 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawAll(document));
  document.addEventListener("htmx:after:swap", () => drawAll(document));
  document.addEventListener("DOMContentLoaded", () => drawAll(document));

  // Parts of a form that only some choices need: data-if="field=value other …".
  function showParts() {
    for (const part of document.querySelectorAll("[data-if]")) {
      const [name, values] = part.dataset.if.split("=");
      const field = part.closest("form")?.elements.namedItem(name);
      part.hidden = Boolean(field) && !values.split(" ").includes(field.value);
    }
  }
  document.addEventListener("DOMContentLoaded", showParts);
  document.addEventListener("change", showParts);

  const commands = "command" in HTMLButtonElement.prototype;
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-opens], [data-closes]");
    if (!button || commands) return;
    if (button.dataset.opens) document.getElementById(button.dataset.opens)?.showModal();
    else document.getElementById(button.dataset.closes)?.close();
  });

  // A form is sent once, however often its button is pressed.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post" || form.hasAttribute("hx-post")) return;
    if (form.dataset.sent) { event.preventDefault(); return; }
    form.dataset.sent = "yes";
  });
  addEventListener("pageshow", () => { for (const form of document.forms) delete form.dataset.sent; });
})();
