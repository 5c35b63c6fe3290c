// The page of book/playground.md: what its controls do, and what it draws of the network that a
// worker trains. The network is that of playground_network.js; the images, DIGITS, come with
// digits.js, which book/_ext/playground.py writes. The markup is book/_ext/playground.html.
"use strict";

function page(root) {
  const NAMES = { laperm: "LaPerm", signs: "Signs", masks: "Masks", adam: "Adam" };
  const [LAST_STEP, STEPS_A_FRAME, MILLISECONDS_A_FRAME] = [4000, 5, 40];
  const form = root.querySelector("form");
  const { train, step, shuffle } = form.elements;
  const shown = (name) => root.querySelector(`[data-show="${name}"]`);
  const say = (name, text) => { shown(name).textContent = text; };
  const whole = (number) => number.toLocaleString("en");
  const decimal = (number) => number.toFixed(2).replace("-", "\u2212");
  const percent = (share) => `${(100 * share).toFixed(1)} %`;

  // -- the choice, in the controls and in the address ---------------------------------------------

  const CHOICES = ["method", "k", "rate", "start", "seed"];
  const chosen = () => Object.fromEntries(CHOICES.map((name) => [name, form.elements[name].value]));
  const defaults = chosen();

  // As in `#k=20&start=two`. What is not named, or cannot be chosen, is as the markup has it.
  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    for (const name of CHOICES) {
      const [control, value] = [form.elements[name], asked.get(name)];
      const options = name === "method" ? control : control.options;
      const isOne = options ? [...options].some((option) => option.value === value)
        : /^\d{1,9}$/.test(value);
      control.value = isOne ? value : defaults[name];
    }
  }

  function writeAddress() {
    history.replaceState(null, "", `#${new URLSearchParams(chosen())}`);
  }

  // -- training -----------------------------------------------------------------------------------

  const source = `"use strict"; (${work})((${mathematics})());`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  let [run, choice, points, before] = [0, null, [], null]; // before: the training before this one
  let [isRunning, isWaiting, request, lastTime] = [false, false, 0, 0];

  function ask(message) {
    isWaiting = true;
    worker.postMessage({ run, ...message });
  }

  function restart() {
    if (points.length > 1) before = { choice, points };
    const { method, start, ...numbers } = chosen();
    choice = { method, start };
    for (const [name, value] of Object.entries(numbers)) choice[name] = Number(value);
    run += 1;
    points = [];
    form.elements.k.disabled = method === "adam";
    root.dataset.method = method;
    ask({ images: DIGITS, choice });
  }

  function setRunning(value) {
    isRunning = value;
    train.textContent = value ? "Pause" : "Train";
    cancelAnimationFrame(request);
    if (value) request = requestAnimationFrame(goOn);
    const last = points.at(-1);
    say("status", value || !last ? "" : `Paused at step ${whole(last.steps)}: `
      + `${percent(last.accuracy[1])} of the held-out images are right.`);
  }

  function goOn(time) {
    request = requestAnimationFrame(goOn);
    if (isWaiting || time - lastTime < MILLISECONDS_A_FRAME) return;
    lastTime = time;
    ask({ steps: STEPS_A_FRAME });
  }

  worker.onmessage = ({ data: frame }) => {
    if (frame.run !== run) return; // of a choice before
    isWaiting = false;
    points.push({ steps: frame.steps, accuracy: frame.accuracy });
    drawNumbers(frame);
    drawAccuracy();
    drawNeurons(frame);
    drawValues(frame);
    drawTravel(frame);
    const isOver = frame.steps >= LAST_STEP;
    train.disabled = step.disabled = isOver;
    if (isOver && isRunning) setRunning(false);
  };

  // -- pictures -----------------------------------------------------------------------------------

  const BARS = 41;
  const describe = (name, words) => shown(name).setAttribute("aria-label", words);
  const draw = (name, path) => shown(name).setAttribute("d", path);
  const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

  function label(axis, marks) {
    shown(axis).replaceChildren(...marks.map(([at, text]) => {
      const mark = document.createElement("span");
      mark.style.setProperty("--at", `${100 * at}%`);
      mark.textContent = text;
      return mark;
    }));
  }

  function drawNumbers({ steps, newValues, accuracy }) {
    const { method, k, seed } = choice;
    say("steps", whole(steps));
    say("synchronisations", method === "adam" ? "none" : whole(Math.floor(steps / k)));
    say("training", percent(accuracy[0]));
    say("held-out", percent(accuracy[1]));
    const isNew = newValues.filter((each) => each).length;
    say("new-values", `${whole(isNew)} of ${whole(newValues.length)}`);
    say("seed", seed);
  }

  // A scale on which 90 to 100 % take as much room as 0 to 90 %.
  const height = (share) => Math.log((1.012 - share) / 1.012) / Math.log(0.012 / 1.012);

  function drawAccuracy() {
    const lists = before ? [points, before.points] : [points];
    let end = 250;
    while (lists.some((list) => list.at(-1).steps > end)) end *= 2;
    const line = (list, which) => `M${list.map(({ steps, accuracy }) =>
      `${(100 * steps) / end} ${100 - 100 * height(accuracy[which])}`).join("L")}`;
    draw("line-training", line(points, 0));
    draw("line-held-out", line(points, 1));
    shown("before").hidden = !before;
    if (before) {
      draw("line-before", line(before.points, 1));
      for (const part of root.querySelectorAll(".playground-before")) {
        part.dataset.method = before.choice.method;
      }
      const { method, k } = before.choice;
      say("before-name", `before: ${NAMES[method]}${method === "adam" ? "" : `, k = ${k}`}`);
    }
    label("accuracy-x", [0, 0.5, 1].map((at) => [at, whole(at * end)]));
    const { steps, accuracy } = points.at(-1);
    const [training, heldOut] = accuracy.map(percent);
    describe("accuracy",
      `Accuracy after ${whole(steps)} steps: ${training} in training, ${heldOut} held out.`);
  }

  // Five colours of cividis, and those between them.
  const CIVIDIS = [[0, 34, 78], [67, 78, 108], [125, 124, 120], [188, 174, 108], [254, 232, 56]];
  function colour(value) { // -1 to 1
    const at = 2 * Math.min(Math.max(value, -1), 1) + 2;
    const below = Math.min(Math.floor(at), 3);
    return CIVIDIS[below].map((from, i) => from + (at - below) * (CIVIDIS[below + 1][i] - from));
  }

  const neurons = Array.from({ length: 32 }, () => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 8, height: 8 });
    shown("neurons").append(canvas);
    return canvas.getContext("2d", { willReadFrequently: true }); // pixels are put, nothing is drawn
  });

  function drawNeurons({ steps, initial, weights }) {
    const most = largest(initial);
    neurons.forEach((context, neuron) => {
      const pixels = new ImageData(8, 8);
      weights.subarray(64 * neuron, 64 * neuron + 64).forEach((value, i) =>
        pixels.data.set([...colour(value / most), 255], 4 * i));
      context.putImageData(pixels, 0, 0);
    });
    describe("neurons",
      `The weights of ${neurons.length} neurons, 8 by 8 each, at step ${whole(steps)}.`);
  }

  // How many values fall to each bar; what lies beyond falls to the last.
  function count(values, bars, barOf) {
    const counts = new Array(bars).fill(0);
    values.forEach((value) => { counts[Math.min(Math.max(barOf(value), 0), bars - 1)] += 1; });
    return counts;
  }

  // The counts as bars, or as the outline of bars.
  function drawBars(name, counts, most) {
    const tops = counts.map((each) => 100 - (95 * each) / most);
    draw(name, `M0 100${tops.map((top, i) =>
      `V${top}H${(100 * (i + 1)) / tops.length}`).join("")}V100`);
  }

  function drawValues({ initial, weights }) {
    const end = 2 * largest(initial);
    const [now, first] = [weights, initial].map((values) =>
      count(values, BARS, (value) => Math.floor(((value + end) / (2 * end)) * BARS)));
    const most = Math.max(...now, ...first);
    drawBars("values-now", now, most);
    drawBars("values-first", first, most);
    label("values-x", [[0, `\u2264 ${decimal(-end)}`], [0.5, "0"], [1, `\u2265 ${decimal(end)}`]]);
    const changed = now.filter((each, i) => each !== first[i]).length;
    const words = changed ? `${changed} of ${BARS} bars have changed` : "no bar has changed";
    say("values-words", words);
    describe("values", `Histogram of the first layer's weights: ${words}.`);
  }

  function drawTravel({ initial, travel, travelByChance }) {
    const moves = choice.method === "laperm";
    const end = moves ? 10 : 2 * largest(initial);
    const bars = (values) => count(values, 11, (value) => Math.ceil((10 * value) / end));
    const [now, chance] = [bars(travel), bars(travelByChance)];
    const most = Math.max(...now, ...(moves ? chance : []));
    drawBars("travel-now", now, most);
    drawBars("travel-chance", moves ? chance : [0], most);
    shown("by-chance").hidden = !moves;
    label("travel-x", [[0, "0"], [5.5 / 11, moves ? "5" : decimal(0.45 * end)],
      [1, moves ? "10" : `> ${decimal(0.9 * end)}`]]);
    const moved = travel.filter((distance) => distance > 0);
    const mean = moved.reduce((a, b) => a + b, 0) / moved.length;
    const by = moves ? `${mean.toFixed(1)} pixels` : decimal(mean);
    const words = `${moves ? "Moved" : "Changed"}: ${whole(moved.length)} of `
      + `${whole(travel.length)} values${moved.length ? `, by ${by} on average` : ""}`;
    say("travel-words", words);
    describe("travel", `${words}.`);
  }

  // -- controls -----------------------------------------------------------------------------------

  label("accuracy-y", [0, 0.5, 0.8, 0.9, 0.95, 0.98, 1].map((share) =>
    [height(share), `${100 * share} %`]));
  draw("accuracy-grid", [0.5, 0.8, 0.9, 0.95, 0.98, 1].map((share) =>
    `M0 ${100 - 100 * height(share)}H100`).join(""));

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => {
    writeAddress();
    restart();
  });
  train.addEventListener("click", () => setRunning(!isRunning));
  step.addEventListener("click", () => {
    if (isRunning) setRunning(false);
    ask({ steps: 1 });
  });
  shuffle.addEventListener("click", () => {
    form.elements.seed.value = choice.seed + 1;
    writeAddress();
    restart();
  });
  for (const link of document.querySelectorAll("[data-choice]")) {
    link.addEventListener("click", () => {
      location.hash = link.dataset.choice;
      root.scrollIntoView();
      train.focus({ preventScroll: true });
    });
  }
  addEventListener("hashchange", () => {
    if (!location.hash.includes("=")) return; // a heading of the page
    readAddress();
    restart();
  });
  readAddress();
  restart();
}

page(document.querySelector(".playground"));
