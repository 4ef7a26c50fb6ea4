"use strict";
// What the reader's screen is like; figures are drawn for it on the server.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 640px)");
  const screen = () => ({ dark: dark.matches, narrow: narrow.matches });
  const tell = () => window.dash_clientside.set_props("screen", { data: screen() });
  dark.addEventListener("change", tell);
  narrow.addEventListener("change", tell);
  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    mpsearch: {
      screen: () => screen(),
      view: (hash, names) => {
        const name = names.includes((hash || "").slice(1)) ? hash.slice(1) : names[0];
        setTimeout(() => window.dispatchEvent(new Event("resize")), 50); // figures that were hidden
        const links = names.map((n) => (n === name ? "page" : "false"));
        return [name, ...names.map((n) => n !== name), ...links];
      },
    },
  });
})();
