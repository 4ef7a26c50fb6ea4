"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const templates = read("templates");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const touch = window.matchMedia("(hover: none)").matches;
  const plots = [...document.querySelectorAll(".plot")].map((box) => ({ box, figure: read(box.dataset.figure) }));
  const config = { responsive: true, displaylogo: false, displayModeBar: touch ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const set = (object, path, value) => {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), object)[last] = value;
  };
  const draw = (theme, width) => {
    for (const { box, figure } of plots) {
      const layout = { ...structuredClone(figure.layout), template: templates[theme] };
      const narrow = (width ?? box.clientWidth) < 600;
      const changes = narrow ? figure.layout.meta?.narrow ?? {} : {};
      for (const [path, value] of Object.entries(changes)) set(layout, path, value);
      if (touch) layout.dragmode = false; // a finger on a figure scrolls the page
      delete layout.meta;
      if (width) layout.width = width;
      window.Plotly.react(box, structuredClone(figure.data), layout, { ...config, staticPlot: Boolean(width) });
    }
  };
  const theme = () => (dark.matches ? "dark" : "light");
  let opened = [];
  draw(theme());
  dark.addEventListener("change", () => draw(theme()));
  let wasNarrow = document.body.clientWidth < 640;
  window.addEventListener("resize", () => {
    const narrow = document.body.clientWidth < 640;
    if (narrow !== wasNarrow) draw(theme());
    wasNarrow = narrow;
  });
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const element of opened) element.open = true;
    draw("light", 680);
  });
  window.addEventListener("afterprint", () => {
    for (const element of opened) element.open = false;
    draw(theme());
  });
})();
