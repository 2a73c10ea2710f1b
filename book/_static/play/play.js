/* Three things to try, in the page itself: plain JavaScript, no server, no network, no library. */
(() => {
  const here = document.currentScript.src.replace(/[^/]*$/, "");
  const $ = (id) => document.getElementById(id);
  const load = (name) => new Promise((done, fail) => {
    const image = new Image();
    image.onload = () => done(image);
    image.onerror = () => fail(new Error(`${name} did not load`));
    image.src = here + name;
  });

  /* A seeded generator (mulberry32): the same button presses give the same draws. */
  function generator(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }
  function normal(random) {
    return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
  }

  /* 1. Any sequence in any nucleus. */
  async function crossAssay() {
    const data = window.deepgpsCross;
    const [images, nuclei] = await Promise.all([load("cross_images.webp"), load("cross_nuclei.webp")]);
    const size = data.size_px;
    const sequence = $("cross-sequence"), nucleus = $("cross-nucleus");
    for (const [index, protein] of data.proteins.entries()) {
      const option = document.createElement("option");
      option.value = index;
      option.textContent = `${protein.gene} (annotated: ${protein.label.toLowerCase()})`;
      sequence.append(option);
    }
    nucleus.max = data.proteins.length - 1;
    function draw() {
      const row = Number(sequence.value), column = Number(nucleus.value);
      const left = $("cross-in").getContext("2d"), right = $("cross-out").getContext("2d");
      left.drawImage(nuclei, column * size, 0, size, size, 0, 0, 208, 208);
      right.drawImage(images, column * size, row * size, size, size, 0, 0, 208, 208);
      const protein = data.proteins[row], ratio = data.nuclear_ratio[row][column];
      const ratios = data.nuclear_ratio[row];
      $("cross-nucleus-value").textContent = `${column + 1} of ${data.proteins.length}`;
      $("cross-said").textContent =
        `${protein.gene} in nucleus ${column + 1}: the label head says nucleus with probability ` +
        `${protein.p_nucleus.toFixed(2)}; the picture is ${ratio.toFixed(1)} times as bright in the nucleus as around ` +
        `it. Over all ${ratios.length} nuclei this sequence gives ${Math.min(...ratios).toFixed(1)} to ` +
        `${Math.max(...ratios).toFixed(1)}.`;
    }
    sequence.addEventListener("input", draw);
    nucleus.addEventListener("input", draw);
    draw();
  }

  /* 2. What a picture has to lose, and what PSNR and SSIM notice. */
  const N = 208;
  function blur(values, sigma) {
    if (sigma <= 0) return values;
    const radius = Math.ceil(3 * sigma), kernel = [];
    for (let i = -radius; i <= radius; i++) kernel.push(Math.exp(-(i * i) / (2 * sigma * sigma)));
    const sum = kernel.reduce((a, b) => a + b);
    const pass = (from, along, across) => {
      const to = new Float64Array(N * N);
      for (let a = 0; a < N; a++) for (let b = 0; b < N; b++) {
        let value = 0;
        for (let i = -radius; i <= radius; i++) {
          const c = Math.min(N - 1, Math.max(0, b + i));
          value += kernel[i + radius] * from[a * across + c * along];
        }
        to[a * across + b * along] = value / sum;
      }
      return to;
    };
    return pass(pass(values, 1, N), N, 1);
  }
  function psnr(a, b) {
    let error = 0;
    for (let i = 0; i < a.length; i++) error += (a[i] - b[i]) ** 2;
    return -10 * Math.log10(error / a.length);
  }
  /* Mean over 7 x 7 pixels around each; wrong within 3 pixels of the border, which is not used. */
  function windowMean(values) {
    const across = new Float64Array(N * N), both = new Float64Array(N * N);
    for (let y = 0; y < N; y++) for (let x = 3; x < N - 3; x++) {
      for (let i = -3; i <= 3; i++) across[y * N + x] += values[y * N + x + i] / 7;
    }
    for (let y = 3; y < N - 3; y++) for (let x = 3; x < N - 3; x++) {
      for (let i = -3; i <= 3; i++) both[y * N + x] += across[(y + i) * N + x] / 7;
    }
    return both;
  }
  /* As the library's `ssim`: 7 x 7 windows, sample covariance, constants for the range [0, 1]. */
  function ssim(a, b) {
    const product = (x, y) => x.map((value, i) => value * y[i]);
    const [ma, mb] = [windowMean(a), windowMean(b)];
    const [aa, bb, ab] = [product(a, a), product(b, b), product(a, b)].map(windowMean);
    let sum = 0, n = 0;
    for (let y = 3; y < N - 3; y++) for (let x = 3; x < N - 3; x++) {
      const i = y * N + x, mm = ma[i] * mb[i], unbiased = 49 / 48;
      const va = unbiased * (aa[i] - ma[i] ** 2), vb = unbiased * (bb[i] - mb[i] ** 2);
      const vab = unbiased * (ab[i] - mm);
      sum += ((2 * mm + 1e-4) * (2 * vab + 9e-4)) / ((ma[i] ** 2 + mb[i] ** 2 + 1e-4) * (va + vb + 9e-4));
      n += 1;
    }
    return sum / n;
  }
  function paint(canvas, values) {
    const context = canvas.getContext("2d"), pixels = context.createImageData(N, N);
    for (let i = 0; i < N * N; i++) {
      const gray = Math.max(0, Math.min(255, Math.round(255 * values[i])));
      pixels.data.set([gray, gray, gray, 255], 4 * i);
    }
    context.putImageData(pixels, 0, 0);
  }
  function readTiles(image) {
    const canvas = document.createElement("canvas");
    canvas.width = image.width;
    canvas.height = image.height;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const tile = (row, column) => {
      const { data } = context.getImageData(column * N, row * N, N, N);
      return Float64Array.from({ length: N * N }, (_, i) => data[4 * i] / 255);
    };
    return Array.from({ length: image.width / N }, (_, k) => ({ nucleus: tile(0, k), protein: tile(1, k) }));
  }
  async function metrics() {
    // a page opened from disk may not read pixels of a picture file: these bytes came with the page
    const image = new Image();
    image.src = window.deepgpsSamples;
    await image.decode();
    const tiles = readTiles(image);
    const controls = ["sample", "start", "blur", "shift", "gain", "noise"].map((name) => $(`metric-${name}`));
    const mean = (values) => values.reduce((a, b) => a + b) / values.length;
    function start(kind, k) {
      if (kind === "nucleus") return tiles[k].nucleus;
      if (kind === "mean") return Float64Array.from({ length: N * N }, () => mean(tiles[k].protein));
      if (kind === "other") return tiles[(k + tiles.length / 2) % tiles.length].protein;
      return tiles[k].protein;
    }
    function draw() {
      const [sample, kind, sigma, shift, gain, noise] = controls.map((control) => control.value);
      const target = tiles[Number(sample)].protein;
      let made = blur(start(kind, Number(sample)), Number(sigma));
      const moved = new Float64Array(N * N), random = generator(1);
      for (let y = 0; y < N; y++) for (let x = 0; x < N; x++) {
        const from = y * N + Math.min(N - 1, Math.max(0, x - Number(shift)));
        const value = made[from] * Number(gain) + Number(noise) * normal(random);
        moved[y * N + x] = Math.max(0, Math.min(1, value));
      }
      paint($("metric-target"), target);
      paint($("metric-made"), moved);
      const score = psnr(moved, target), alike = ssim(moved, target);
      const flat = psnr(start("mean", Number(sample)), target);
      $("metric-said").textContent = Number.isFinite(score)
        ? `PSNR ${score.toFixed(1)} dB, SSIM ${alike.toFixed(2)}. One gray value everywhere, the picture's own mean, has ${flat.toFixed(1)} dB.`
        : "The two are equal: PSNR has no upper end, SSIM is 1.";
      for (const control of controls) {
        const value = $(`${control.id}-value`);
        if (value) value.textContent = control.value;
      }
    }
    let waiting = 0;
    for (const control of controls) control.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(draw, 0);
    });
    draw();
  }

  /* 3. Two models, one lucky split. */
  function splits() {
    const canvas = $("split-plot"), context = canvas.getContext("2d");
    let draws = [], random = generator(7);
    const setting = () => ({ n: Number($("split-n").value), a: Number($("split-a").value), b: Number($("split-b").value) });
    function wilson(k, n) {
      const z = 1.959964, p = k / n, half = (z * Math.sqrt((p * (1 - p)) / n + (z * z) / (4 * n * n))) / (1 + (z * z) / n);
      const center = (p + (z * z) / (2 * n)) / (1 + (z * z) / n);
      return [center - half, center + half];
    }
    function score(n, p) {
      let right = 0;
      for (let i = 0; i < n; i++) right += random() < p;
      return right;
    }
    function draw() {
      const { n, a, b } = setting(), { width, height } = canvas;
      context.fillStyle = "#fff";
      context.fillRect(0, 0, width, height);
      const left = 60, right = width - 20, x = (v) => left + ((v - 0.3) / 0.7) * (right - left);
      context.font = "20px sans-serif";
      context.textAlign = "center";
      context.fillStyle = "#222";
      for (const tick of [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]) {
        context.fillText(tick.toFixed(1), x(tick), height - 12);
        context.fillStyle = "#ddd";
        context.fillRect(x(tick), 12, 1, height - 50);
        context.fillStyle = "#222";
      }
      for (const [row, color, truth, key] of [[0.3, "#0072b2", a, 0], [0.72, "#d55e00", b, 1]]) {
        const y = 12 + row * (height - 62), counts = new Map();
        context.fillStyle = "#222";
        context.fillText("AB"[key], 28, y + 7);
        for (const draw of draws) {
          const seen = counts.get(draw[key]) ?? 0;
          counts.set(draw[key], seen + 1);
          context.fillStyle = color;
          context.globalAlpha = 0.75;
          context.beginPath();
          context.arc(x(draw[key] / n), y - Math.min(seen, 12) * 5 + 14, 5, 0, 7);
          context.fill();
          context.globalAlpha = 1;
        }
        context.strokeStyle = "#000";
        context.lineWidth = 3;
        context.beginPath();
        context.moveTo(x(truth), y - 48);
        context.lineTo(x(truth), y + 24);
        context.stroke();
      }
      if (!draws.length) {
        $("split-said").textContent = "Nothing drawn yet. The black lines are what the models are truly worth.";
        return;
      }
      const [ka, kb] = draws.at(-1), [la, ha] = wilson(ka, n), [lb, hb] = wilson(kb, n);
      const wrong = draws.filter(([ra, rb]) => (a - b) * (ra - rb) < 0).length;
      const tied = draws.filter(([ra, rb]) => ra === rb).length;
      const text = (k, low, high) => `${(k / n).toFixed(2)} (${low.toFixed(2)} to ${high.toFixed(2)})`;
      $("split-said").textContent =
        `Last draw: A ${text(ka, la, ha)}, B ${text(kb, lb, hb)}, with 95 % intervals by Wilson. ` +
        (a === b
          ? `In ${draws.length} draws, ${draws.length - tied} would have been reported as a difference, though there is none.`
          : `In ${draws.length} draws the worse model came out ahead ${wrong} times, and ${tied} were a tie.`);
    }
    const add = (times) => {
      const { n, a, b } = setting();
      for (let i = 0; i < times; i++) draws.push([score(n, a), score(n, b)]);
      draw();
    };
    const clear = () => { draws = []; random = generator(7); draw(); };
    $("split-one").addEventListener("click", () => add(1));
    $("split-many").addEventListener("click", () => add(100));
    $("split-clear").addEventListener("click", clear);
    for (const id of ["split-n", "split-a", "split-b"]) $(id).addEventListener("input", () => {
      $(`${id}-value`).textContent = $(id).value;
      clear();
    });
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    const run = (toy, id) => Promise.resolve().then(toy).catch((error) => { $(id).textContent = `Not available: ${error.message}`; });
    run(crossAssay, "cross-said");
    run(metrics, "metric-said");
    run(splits, "split-said");
  });
})();
