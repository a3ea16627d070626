"use strict";
// The surface and the rules' steps below are written by isostep from their programs.
/*SURFACE*/
const facts = /*FACTS*/;
const rules = [
/*RULES*/
];

// The hyperparameters of step t (1, 2, ...) as a rule's functions want them.
function numbers(rule, settings, t) {
    const H = {};
    for (const [name, v] of Object.entries(rule.hyper)) H[name] = Array.isArray(v) ? v[t - 1] : v;
    if (rule.lr && settings.lr !== undefined) H.lr = settings.lr;
    if (rule.momentum && settings.momentum !== undefined) H[rule.momentum] = settings.momentum;
    return H;
}

// The points of a path, the start first, and the surface's value at each.
// settings: lr and momentum of this rule (as given where undefined), noise.
function run(rule, settings) {
    const first = numbers(rule, settings, 1);
    const kind = first[rule.momentum] === 0 ? "zero" : "some";
    const variant = rule.variants.given || rule.variants[kind] || Object.values(rule.variants)[0];
    const P = facts.start.slice();
    const S = variant.state(first, P);
    const GROUP = variant.start(first);
    const noise = settings.noise === undefined ? facts.noise : settings.noise;
    const points = [P.slice()], losses = [value(P[0], P[1])];
    for (let t = 1; t <= facts.steps; t++) {
        const G = gradient(P[0], P[1]).map((g, i) => g + noise * facts.draws[t - 1][i]);
        GROUP.loss = losses[t - 1]; // for the rules that look at it
        variant.steps[variant.kinds[t - 1]](numbers(rule, settings, t), t, P, G, {}, S, GROUP);
        points.push(P.slice());
        losses.push(value(P[0], P[1]));
    }
    return { points, losses };
}
globalThis.isostep = { facts, rules, run, value, gradient };

if (typeof document !== "undefined") draw();

function draw() {
    const SVG = "http://www.w3.org/2000/svg";
    const W = 520, H = 420, PAD = 44;
    const low = facts.low;
    const settings = rules.map((r) => ({ lr: r.lr ? r.hyper.lr : undefined, momentum: r.hyper[r.momentum] }));
    let noise = facts.noise, shown = facts.steps;

    function make(name, attributes, parent, text) {
        const e = document.createElementNS(SVG, name);
        for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
        if (text !== undefined) e.textContent = text;
        parent.append(e);
        return e;
    }
    const span = (domain, range) => (v) =>
        range[0] + ((v - domain[0]) / (domain[1] - domain[0])) * (range[1] - range[0]);
    const sx = span(facts.x, [PAD, W - 10]), sy = span(facts.y, [H - PAD, 10]);

    function axes(svg, xs, ys, xlabel, ylabel) {
        make("rect", { x: PAD, y: 10, width: W - PAD - 10, height: H - PAD - 10, class: "frame" }, svg);
        for (const [at, label] of xs) make("text", { x: at, y: H - PAD + 18, class: "tick", "text-anchor": "middle" }, svg, label);
        for (const [at, label] of ys) make("text", { x: PAD - 6, y: at + 4, class: "tick", "text-anchor": "end" }, svg, label);
        make("text", { x: (W + PAD) / 2, y: H - 6, "text-anchor": "middle" }, svg, xlabel);
        make("text", { x: 12, y: H / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${H / 2})` }, svg, ylabel);
    }
    const ticks = ([a, b], n) => Array.from({ length: n + 1 }, (_, k) => a + ((b - a) * k) / n);

    // Contours by marching squares: each cell gives up to two segments.
    function contours(svg) {
        const n = 140, xs = ticks(facts.x, n), ys = ticks(facts.y, n);
        const z = ys.map((y) => xs.map((x) => value(x, y)));
        facts.levels.forEach((level, k) => {
            let d = "";
            for (let j = 0; j < n; j++) for (let i = 0; i < n; i++) {
                const corners = [[i, j], [i + 1, j], [i + 1, j + 1], [i, j + 1]];
                const cuts = [];
                for (let e = 0; e < 4; e++) {
                    const [a, b] = [corners[e], corners[(e + 1) % 4]];
                    const za = z[a[1]][a[0]] - level, zb = z[b[1]][b[0]] - level;
                    if (za < 0 !== zb < 0) {
                        const f = za / (za - zb);
                        cuts.push([xs[a[0]] + f * (xs[b[0]] - xs[a[0]]), ys[a[1]] + f * (ys[b[1]] - ys[a[1]])]);
                    }
                }
                for (let c = 0; c + 1 < cuts.length; c += 2)
                    d += `M${sx(cuts[c][0]).toFixed(1)} ${sy(cuts[c][1]).toFixed(1)}L${sx(cuts[c + 1][0]).toFixed(1)} ${sy(cuts[c + 1][1]).toFixed(1)}`;
            }
            const shade = 55 + (30 * k) / facts.levels.length;
            make("path", { d, class: "contour", stroke: `hsl(210 12% ${shade}%)` }, svg);
        });
        for (const [x, y] of facts.minima) make("text", { x: sx(x), y: sy(y) + 6, class: "minimum", "text-anchor": "middle" }, svg, "★");
    }

    const map = document.getElementById("map"), chart = document.getElementById("chart");
    for (const svg of [map, chart]) svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
    axes(map, ticks(facts.x, 4).map((v) => [sx(v), v.toFixed(1)]), ticks(facts.y, 4).map((v) => [sy(v), v.toFixed(1)]), "x", "y");
    const clip = make("clipPath", { id: "window" }, map);
    make("rect", { x: PAD, y: 10, width: W - PAD - 10, height: H - PAD - 10 }, clip);
    contours(map);
    const layer = make("g", { "clip-path": "url(#window)" }, map);

    function line(parent, points, rule, name) {
        const good = points.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y));
        const text = good.map(([x, y]) => `${Math.max(-1e5, Math.min(1e5, x)).toFixed(2)},${Math.max(-1e5, Math.min(1e5, y)).toFixed(2)}`).join(" ");
        make("polyline", { points: text, fill: "none", stroke: rule.colour, "stroke-width": 1.8, "data-rule": name }, parent);
        for (const [x, y] of good)
            if (Math.abs(x) < 1e5 && Math.abs(y) < 1e5) make("circle", { cx: x.toFixed(2), cy: y.toFixed(2), r: 2.4, fill: rule.colour }, parent);
    }

    function redraw() {
        const results = rules.map((r, k) => run(r, { ...settings[k], noise }));
        layer.replaceChildren();
        chart.replaceChildren();
        const heights = results.flatMap((r) => r.losses).map((v) => Math.log10(Math.max(v - low, 1e-16))).filter(Number.isFinite);
        const top = Math.min(Math.ceil(Math.max(...heights)), 30), bottom = Math.floor(Math.min(...heights));
        const cx = span([0, facts.steps], [PAD, W - 10]), cy = span([bottom, Math.max(top, bottom + 1)], [H - PAD, 10]);
        const every = Math.max(1, Math.ceil((top - bottom) / 8));
        const decades = [];
        for (let k = bottom; k <= top; k += every) decades.push([cy(k), `1e${k}`]);
        axes(chart, ticks([0, facts.steps], Math.min(5, facts.steps)).map((v) => [cx(v), Math.round(v)]), decades, "step", "loss above the minimum");
        const rows = document.getElementById("rows");
        rows.replaceChildren();
        results.forEach((result, k) => {
            const rule = rules[k];
            line(layer, result.points.slice(0, shown + 1).map(([x, y]) => [sx(x), sy(y)]), rule, k);
            line(chart, result.losses.slice(0, shown + 1).map((v, i) => [cx(i), cy(Math.log10(Math.max(v - low, 1e-16)))]), rule, k);
            const row = document.createElement("tr");
            const [x, y] = result.points[shown];
            for (const text of [rule.name, x.toPrecision(5), y.toPrecision(5), (result.losses[shown] - low).toExponential(2)]) {
                const cell = document.createElement("td");
                cell.textContent = text;
                row.append(cell);
            }
            rows.append(row);
        });
    }

    // A labelled slider whose position p gives the value read(p).
    function slider(parent, id, label, least, most, step, position, read, write, set) {
        const box = document.createElement("label");
        const input = document.createElement("input"), output = document.createElement("output");
        Object.assign(input, { type: "range", id, min: least, max: most, step });
        input.value = position;
        const show = (v) => { output.textContent = write(v); input.setAttribute("aria-valuetext", write(v)); };
        show(read(Number(input.value)));
        input.addEventListener("input", () => {
            const v = read(Number(input.value));
            show(v);
            set(v);
            redraw();
        });
        box.append(label, input, output);
        parent.append(box);
    }
    const controls = document.getElementById("controls");
    const all = document.createElement("fieldset");
    const legend = document.createElement("legend");
    legend.textContent = "all rules";
    all.append(legend);
    controls.append(all);
    slider(all, "noise", "gradient noise", 0, Math.max(5, 2 * facts.noise), "any", noise, (p) => p, (v) => v.toFixed(2), (v) => { noise = v; });
    slider(all, "steps", "steps shown", 0, facts.steps, 1, shown, (p) => p, String, (v) => { shown = v; });
    rules.forEach((rule, k) => {
        const set = document.createElement("fieldset"), name = document.createElement("legend");
        const mark = document.createElement("span");
        mark.style.background = rule.colour;
        mark.className = "swatch";
        name.append(mark, rule.title);
        set.append(name);
        controls.append(set);
        if (rule.lr)  // two decades down and one up; from 1e-4 where it starts at 0
            slider(set, `lr-${k}`, "learning rate", -2, 1, 0.01, 0,
                (p) => (p === 0 ? rule.hyper.lr : (rule.hyper.lr || 1e-4) * 10 ** p), (v) => v.toPrecision(3), (v) => { settings[k].lr = v; });
        if (rule.momentum)
            slider(set, `momentum-${k}`, `momentum (${rule.momentum})`, 0, 0.99, "any", rule.hyper[rule.momentum],
                (p) => p, (v) => v.toFixed(3), (v) => { settings[k].momentum = v; });
    });
    redraw();
}
