// Puts the interactive figure into the place of its picture; see laperm_lib/plotting/interactive.py.
(() => {
  const folder = new URL("../bokeh/", document.currentScript.src);
  const narrow = matchMedia("(max-width: 768px)"); // a phone, or nearly

  // Where there is no room for panels beside each other they stand one below the other.
  function arrange(grid) {
    const { children } = grid;
    const place = () => {
      grid.children = narrow.matches ? children.map(([panel], row) => [panel, row, 0]) : children;
    };
    narrow.addEventListener("change", place);
    place();
  }

  async function draw(figure) {
    const item = JSON.parse(figure.querySelector("script").textContent);
    const chart = document.createElement("div");
    chart.className = "laperm-chart";
    figure.append(chart);
    const views = await Bokeh.embed.embed_item(item, chart);
    const roots = views.roots.map((view) => view.model);
    roots.flatMap((root) => [...root.select(Bokeh.Models.get("GridPlot"))]).forEach(arrange);
    const picture = figure.querySelector("img");
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", picture.alt);
    picture.hidden = true;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const figures = document.querySelectorAll(".laperm-interactive");
    if (!figures.length) return; // most pages need no Bokeh
    const load = (name, then) => {
      const script = document.createElement("script");
      script.src = new URL(name, folder);
      script.onload = then;
      document.head.append(script);
    };
    const drawAll = () => figures.forEach(draw);
    // Sliders have a script of their own, which few pages need.
    const widgets = [...figures].some((figure) => figure.textContent.includes("Slider"));
    load("bokeh.min.js", widgets ? () => load("bokeh-widgets.min.js", drawAll) : drawAll);
  });
})();
