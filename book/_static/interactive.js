// Puts the interactive figure into the place of its picture; see laperm_lib/plotting/interactive.py.
(() => {
  const bokeh = new URL("../bokeh/bokeh.min.js", document.currentScript.src);

  async function draw(figure) {
    const item = JSON.parse(figure.querySelector("script").textContent);
    const chart = document.createElement("div");
    chart.className = "laperm-chart";
    figure.append(chart);
    await Bokeh.embed.embed_item(item, chart);
    const picture = figure.querySelector("img");
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", picture.alt);
    picture.hidden = true;
  }

  document.addEventListener("DOMContentLoaded", () => {
    const figures = document.querySelectorAll(".laperm-interactive");
    if (!figures.length) return; // most pages need no Bokeh
    const script = document.createElement("script");
    script.src = bokeh;
    script.onload = () => figures.forEach(draw);
    document.head.append(script);
  });
})();
