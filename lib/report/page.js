// Live figures, drawn when they come near; folded code; the menu; where the reader is. Without scripts the page shows pictures.
"use strict";
(() => {
  const all = (what, from = document) => [...from.querySelectorAll(what)];
  const dark = matchMedia("(prefers-color-scheme: dark)"), wide = matchMedia("(min-width: 1000px)");
  const DARK = DARK_COLOURS;
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

  // The page says the finding in its own type, so the figure gives up its title and the room for it.
  function figure(source) {
    const text = dark.matches ? source.replace(/#[0-9a-f]{6}/gi, c => DARK[c.toLowerCase()] ?? c) : source;
    const { data, layout } = JSON.parse(text);
    const room = layout.showlegend === false ? 16 : 44, height = (layout.height ?? 460) - (layout.margin?.t ?? 0) + room;
    return { data, layout: { ...layout, title: undefined, width: undefined, height, margin: { ...layout.margin, t: room } } };
  }
  function draw(plot) {
    const { data, layout } = figure(plot.querySelector("script").textContent);
    Plotly.react(plot.querySelector(".live"), data, layout, config);
    plot.dataset.drawn = "";
  }
  const near = new IntersectionObserver(seen => seen.filter(s => s.isIntersecting).forEach(s => {
    near.unobserve(s.target);
    draw(s.target);
  }), { rootMargin: "800px" });
  all("figure.plot").forEach(plot => {
    plot.querySelector(".live").style.minHeight = figure(plot.querySelector("script").textContent).layout.height + "px";
    near.observe(plot);
  });
  dark.addEventListener("change", () => all("figure.plot[data-drawn]").forEach(draw));

  const button = document.getElementById("code");
  button?.addEventListener("click", () => {
    const show = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", show);
    button.textContent = show ? "Hide code" : "Show code";
    all("details.code").forEach(fold => { fold.open = show; });
  });

  const menu = document.querySelector(".menu"), unfold = () => { menu.open = wide.matches; };
  unfold();
  wide.addEventListener("change", unfold);
  menu.addEventListener("click", event => { if (!wide.matches && event.target.closest("a")) menu.open = false; });

  // In the one-file report the menu unfolds the sections of the notebook that is being read.
  const reading = new IntersectionObserver(seen => seen.filter(s => s.isIntersecting).forEach(s => {
    all("nav li[data-page]").forEach(li => li.classList.toggle("current", li.dataset.page === s.target.dataset.page));
  }), { rootMargin: "-30% 0px -60%" });
  if (document.body.className === "single") all("section.notebook").forEach(section => reading.observe(section));
})();
