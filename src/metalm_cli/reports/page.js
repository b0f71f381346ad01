"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const config = read("config");
  const views = new Map();

  // -- theme: the system's, until a button says otherwise; figures take their colours from the style sheet
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("metalm-report-theme"); } catch { /* a file may keep nothing */ }
  const theme = () => chosen ?? (system.matches ? "dark" : "light");
  const show = () => {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to the ${theme() === "dark" ? "light" : "dark"} theme`);
  };
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("metalm-report-theme", chosen); } catch { /* as above */ }
    show();
  });
  show();

  // -- figures
  const logs = new Map();
  const layersOf = (spec) => spec.layer ?? [spec];
  function specOf(key) {
    const spec = structuredClone(read(`spec-${key}`));
    for (const axis of logs.get(key) ?? []) {
      for (const layer of layersOf(spec)) {
        const channel = layer.encoding?.[axis];
        if (channel) {
          channel.scale = { ...channel.scale, type: "log", zero: undefined };
          if (axis === "x") channel.axis = { ...channel.axis, labelOverlap: true };
        }
      }
    }
    return spec;
  }
  async function draw(figure) {
    const key = figure.dataset.key;
    views.get(key)?.finalize();
    const chart = figure.querySelector(".chart");
    const options = { renderer: "svg", actions: false, config, ast: true, tooltip: { theme: "custom" } };
    const made = await vegaEmbed(chart, specOf(key), options);
    views.set(key, made.view);
    chart.dataset.drawn = "yes";
    made.view.addEventListener("wheel", (event) => { if (event.shiftKey) event.preventDefault(); });
  }

  // Show a part of a figure: as wide as before times a factor, and moved by shares of its width and height.
  function look(key, factor, across = 0, up = 0) {
    const view = views.get(key);
    for (const [axis, name, by] of [["x", "zoom_step", across], ["y", "zoom_value", up]]) {
      const scale = view.scale(axis);
      const power = scale.type === "log";
      const [low, high] = scale.domain().map((one) => (power ? Math.log(one) : one));
      const middle = (low + high) / 2 + by * (high - low), half = ((high - low) / 2) * factor;
      view.signal(name, [middle - half, middle + half].map((one) => (power ? Math.exp(one) : one)));
    }
    view.runAsync();
  }
  const moves = { ArrowLeft: [1, -0.2], ArrowRight: [1, 0.2], ArrowUp: [1, 0, 0.2], ArrowDown: [1, 0, -0.2], "+": [0.5], "=": [0.5], "-": [2] };
  document.addEventListener("keydown", (event) => {
    const chart = event.target.closest?.(".chart[tabindex]");
    if (!chart || event.ctrlKey || event.metaKey || event.altKey) return;
    const figure = chart.closest("figure");
    if (event.key === "0") draw(figure);
    else if (moves[event.key]) look(figure.dataset.key, ...moves[event.key]);
    else return;
    event.preventDefault();
  });

  // A figure by itself knows no style sheet and lies on white: its variables give way to the light theme's values.
  const alone = (svg) => {
    const before = root.dataset.theme;
    root.dataset.theme = "light";
    const style = getComputedStyle(root);
    const made = svg.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    root.dataset.theme = before;
    return made;
  };
  async function save(key, kind) {
    const svg = alone(await views.get(key).toSVG());
    let url = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
    if (kind === "png") {
      const image = new Image();
      image.src = `data:image/svg+xml,${encodeURIComponent(svg)}`;
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.width * 2; canvas.height = image.height * 2;
      const pen = canvas.getContext("2d");
      pen.fillStyle = "#fff";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      url = canvas.toDataURL("image/png");
    }
    const link = document.createElement("a");
    link.href = url; link.download = `${key}.${kind}`;
    link.click();
  }

  const actions = {
    "in": (key) => look(key, 0.5), "out": (key) => look(key, 2),
    "reset": (key, figure) => draw(figure), "svg": (key) => save(key, "svg"), "png": (key) => save(key, "png"),
  };
  document.addEventListener("click", (event) => {
    const pressed = event.target.closest(".tools button");
    if (!pressed) return;
    const figure = pressed.closest("figure"), key = figure.dataset.key;
    if (pressed.dataset.log) {
      const axes = new Set(logs.get(key) ?? []), axis = pressed.dataset.log;
      if (!axes.delete(axis)) axes.add(axis);
      logs.set(key, axes);
      pressed.setAttribute("aria-pressed", String(axes.has(axis)));
      draw(figure);
    } else actions[pressed.dataset.do](key, figure);
  });

  // -- answers
  const filter = () => {
    const task = document.getElementById("of-task")?.value ?? "";
    const verdict = document.getElementById("of-verdict")?.value ?? "";
    let shown = 0;
    for (const one of document.querySelectorAll(".answers > li")) {
      one.hidden = (task && one.dataset.task !== task) || (verdict && one.dataset.verdict !== verdict);
      shown += !one.hidden;
    }
    const said = document.getElementById("shown");
    if (said) said.textContent = `${shown} shown`;
  };
  for (const id of ["of-task", "of-verdict"]) document.getElementById(id)?.addEventListener("change", filter);

  (async () => {
    for (const figure of document.querySelectorAll("figure[data-key]")) {
      try { await draw(figure); } catch (error) {
        console.error(error);
        figure.querySelector(".chart").textContent = "This figure cannot be drawn here; its numbers are below.";
      }
    }
    root.dataset.ready = "yes";
  })();
})();
