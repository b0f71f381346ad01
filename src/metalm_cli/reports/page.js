"use strict";
(() => {
  const root = document.documentElement;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const config = read("config");
  const views = new Map();

  // -- theme: that of the system until the button is pressed; the style sheet sets the colours of figures
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("metalm-report-theme"); } catch { /* a page opened from a file may have no storage */ }
  const theme = () => chosen ?? (system.matches ? "dark" : "light");
  const show = () => {
    root.dataset.theme = theme();
    button.textContent = theme() === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Change to the ${theme() === "dark" ? "light" : "dark"} theme`);
  };
  system.addEventListener("change", show);
  button.addEventListener("click", () => {
    chosen = theme() === "dark" ? "light" : "dark";
    try { localStorage.setItem("metalm-report-theme", chosen); } catch { /* no storage */ }
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
    const embedded = await vegaEmbed(chart, specOf(key), options);
    views.set(key, embedded.view);
    chart.dataset.drawn = "yes";
    embedded.view.addEventListener("wheel", (event) => { if (event.shiftKey) event.preventDefault(); });
  }

  // Zoom a figure by a factor (0.5 halves the visible range) and move it by shares of its width and height.
  function zoom(key, factor, across = 0, up = 0) {
    const view = views.get(key);
    for (const [axis, name, shift] of [["x", "zoom_step", across], ["y", "zoom_value", up]]) {
      const scale = view.scale(axis);
      const isLog = scale.type === "log";
      const [low, high] = scale.domain().map((value) => (isLog ? Math.log(value) : value));
      const middle = (low + high) / 2 + shift * (high - low), half = ((high - low) / 2) * factor;
      view.signal(name, [middle - half, middle + half].map((value) => (isLog ? Math.exp(value) : value)));
    }
    view.runAsync();
  }
  const moves = { ArrowLeft: [1, -0.2], ArrowRight: [1, 0.2], ArrowUp: [1, 0, 0.2], ArrowDown: [1, 0, -0.2], "+": [0.5], "=": [0.5], "-": [2] };
  document.addEventListener("keydown", (event) => {
    const chart = event.target.closest?.(".chart[tabindex]");
    if (!chart || event.ctrlKey || event.metaKey || event.altKey) return;
    const figure = chart.closest("figure");
    if (event.key === "0") draw(figure);
    else if (moves[event.key]) zoom(figure.dataset.key, ...moves[event.key]);
    else return;
    event.preventDefault();
  });

  // A saved figure has no style sheet and a white background: replace its variables with the light theme's values.
  const resolveColours = (svg) => {
    const previousTheme = root.dataset.theme;
    root.dataset.theme = "light";
    const style = getComputedStyle(root);
    const resolved = svg.replace(/var\((--[\w-]+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    root.dataset.theme = previousTheme;
    return resolved;
  };
  async function save(key, kind) {
    const svg = resolveColours(await views.get(key).toSVG());
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
    "in": (key) => zoom(key, 0.5), "out": (key) => zoom(key, 2),
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
    const task = document.getElementById("task-filter")?.value ?? "";
    const verdict = document.getElementById("verdict-filter")?.value ?? "";
    let count = 0;
    for (const answer of document.querySelectorAll(".answers > li")) {
      answer.hidden = (task && answer.dataset.task !== task) || (verdict && answer.dataset.verdict !== verdict);
      count += !answer.hidden;
    }
    const status = document.getElementById("answer-count");
    if (status) status.textContent = `${count} shown`;
  };
  for (const id of ["task-filter", "verdict-filter"]) document.getElementById(id)?.addEventListener("change", filter);

  (async () => {
    for (const figure of document.querySelectorAll("figure[data-key]")) {
      try { await draw(figure); } catch (error) {
        console.error(error);
        figure.querySelector(".chart").textContent = "This figure cannot be drawn in this browser; the table below holds its numbers.";
      }
    }
    root.dataset.ready = "yes";
  })();
})();
