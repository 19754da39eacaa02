// Lines over time on a canvas: drawn by hand, as they are simple. Colours come from the style sheet.

import { clock } from './format.js';

const PAD = { left: 0, top: 8, bottom: 18 };
/** Seconds between two times on the axis. */
const STEPS = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600];
const hovered = { at: null };
const alive = new Set();

/** Draws `spec` on `canvas` now, and again when its size or the theme changes.
 *  spec: { series: [{ name, colour: '--up', points: [{t, v}], fill }], format, from, to, floor } */
export function draw(canvas, spec) {
  canvas.arusSpec = spec;
  if (!alive.has(canvas)) adopt(canvas);
  paint(canvas);
}

function adopt(canvas) {
  alive.add(canvas);
  new ResizeObserver(() => paint(canvas)).observe(canvas);
  canvas.addEventListener('pointermove', (event) => {
    const { left, width } = canvas.getBoundingClientRect();
    const { from, to, right } = canvas.arusSpec;
    const share = (event.clientX - left - PAD.left) / (width - PAD.left - right);
    hovered.at = share >= 0 && share <= 1 ? from + share * (to - from) : null;
    repaint();
  });
  canvas.addEventListener('pointerleave', () => {
    hovered.at = null;
    repaint();
  });
}

export function repaint() {
  for (const canvas of alive) {
    if (canvas.isConnected) paint(canvas);
    else alive.delete(canvas);
  }
}

function paint(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const spec = canvas.arusSpec;
  if (!spec || width === 0 || height === 0) return;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext('2d');
  const style = getComputedStyle(canvas);
  const colour = resolver(canvas);
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = `11px ${style.fontFamily}`;
  const seen = spec.series.flatMap((line) => line.points.filter((point) => point.t >= spec.from && Number.isFinite(point.v)).map((point) => point.v));
  const ticks = nice(Math.max(spec.floor ?? 0, ...seen, 0), spec.binary);
  const top = ticks.at(-1) || 1;
  spec.right = Math.max(...ticks.map((tick) => pen.measureText(spec.format(tick)).width)) + 8;
  const box = { x: PAD.left, y: PAD.top, w: width - PAD.left - spec.right, h: height - PAD.top - PAD.bottom };
  if (box.w < 20 || box.h < 10) return;
  const x = (t) => box.x + ((t - spec.from) / (spec.to - spec.from)) * box.w;
  const y = (v) => box.y + box.h - (Math.min(v, top) / top) * box.h;

  pen.textBaseline = 'middle';
  pen.textAlign = 'left';
  for (const tick of ticks) {
    const at = Math.round(y(tick)) + 0.5;
    pen.strokeStyle = colour(tick === 0 ? '--line-strong' : '--line');
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(box.x, at);
    pen.lineTo(box.x + box.w, at);
    pen.stroke();
    pen.fillStyle = colour('--muted');
    if (tick > 0) pen.fillText(spec.format(tick), box.x + box.w + 6, at);
  }
  pen.textBaseline = 'alphabetic';
  const step = STEPS.find((seconds) => ((spec.to - spec.from) / seconds) * 80 <= box.w) ?? STEPS.at(-1);
  // Round times of the day here, not of UTC.
  const zone = new Date().getTimezoneOffset() * 60;
  pen.textAlign = 'center';
  pen.fillStyle = colour('--muted');
  for (let t = Math.ceil((spec.from - zone) / step) * step + zone; t <= spec.to; t += step) {
    const text = clock(t * 1000, step < 60);
    const half = pen.measureText(text).width / 2;
    if (x(t) - half >= box.x && x(t) + half <= box.x + box.w) pen.fillText(text, x(t), height - 4);
  }

  pen.save();
  pen.beginPath();
  pen.rect(box.x, 0, box.w, height);
  pen.clip();
  for (const line of spec.series) {
    const stretches = unbroken(line.points, spec);
    pen.strokeStyle = colour(line.colour);
    pen.lineWidth = 1.5;
    pen.lineJoin = 'round';
    for (const stretch of stretches) {
      if (line.fill) {
        pen.beginPath();
        stretch.forEach((point, index) => (index ? pen.lineTo(x(point.t), y(point.v)) : pen.moveTo(x(point.t), y(point.v))));
        pen.lineTo(x(stretch.at(-1).t), box.y + box.h);
        pen.lineTo(x(stretch[0].t), box.y + box.h);
        pen.closePath();
        pen.globalAlpha = 0.12;
        pen.fillStyle = colour(line.colour);
        pen.fill();
        pen.globalAlpha = 1;
      }
      pen.beginPath();
      stretch.forEach((point, index) => (index ? pen.lineTo(x(point.t), y(point.v)) : pen.moveTo(x(point.t), y(point.v))));
      if (stretch.length === 1) pen.lineTo(x(stretch[0].t) + 1, y(stretch[0].v));
      pen.stroke();
    }
  }
  pen.restore();
  if (hovered.at !== null && hovered.at >= spec.from && hovered.at <= spec.to) cross(pen, spec, box, x, y, colour);
}

/** Colours of the style sheet as a canvas understands them. */
function resolver(canvas) {
  const probe = document.createElement('span');
  probe.hidden = true;
  canvas.parentElement.append(probe);
  const style = getComputedStyle(probe);
  const known = new Map();
  queueMicrotask(() => probe.remove());
  return (name) => {
    if (!known.has(name)) {
      probe.style.color = `var(${name})`;
      known.set(name, style.color);
    }
    return known.get(name);
  };
}

/** The line under the pointer, and what was there. */
function cross(pen, spec, box, x, y, colour) {
  const found = spec.series.map((line) => ({ line, point: nearest(line.points, hovered.at) })).filter(({ point }) => point);
  if (!found.length) return;
  const t = found[0].point.t;
  const at = Math.round(x(t)) + 0.5;
  pen.strokeStyle = colour('--muted');
  pen.lineWidth = 1;
  pen.beginPath();
  pen.moveTo(at, box.y);
  pen.lineTo(at, box.y + box.h);
  pen.stroke();
  const rows = [clock(t * 1000), ...found.map(({ line, point }) => `${line.name}  ${spec.format(point.v)}`)];
  const wide = Math.max(...rows.map((row) => pen.measureText(row).width)) + 26;
  const high = rows.length * 16 + 8;
  const left = at + 10 + wide > box.x + box.w ? at - 10 - wide : at + 10;
  pen.fillStyle = colour('--raised');
  pen.strokeStyle = colour('--line-strong');
  pen.beginPath();
  pen.roundRect(left, box.y + 2, wide, high, 5);
  pen.fill();
  pen.stroke();
  pen.textAlign = 'left';
  rows.forEach((row, index) => {
    const base = box.y + 17 + index * 16;
    pen.fillStyle = index ? colour('--text') : colour('--muted');
    pen.fillText(row, left + (index ? 18 : 8), base);
    if (index) {
      const { line, point } = found[index - 1];
      pen.fillStyle = colour(line.colour);
      pen.fillRect(left + 8, base - 8, 6, 8);
      pen.beginPath();
      pen.arc(x(point.t), y(point.v), 3, 0, 7);
      pen.fill();
    }
  });
}

function nearest(points, t) {
  let best = null;
  for (const point of points) {
    if (Number.isFinite(point.v) && (best === null || Math.abs(point.t - t) < Math.abs(best.t - t))) best = point;
  }
  return best;
}

/** Where nothing was measured, nothing is drawn. */
function unbroken(points, spec) {
  const stretches = [];
  let last = null;
  for (const point of points) {
    if (!Number.isFinite(point.v) || point.t < spec.from - (spec.gap ?? 30)) {
      last = null;
      continue;
    }
    if (last === null || point.t - last > (spec.gap ?? 30)) stretches.push([]);
    stretches.at(-1).push(point);
    last = point.t;
  }
  return stretches;
}

/** Two to four round numbers from 0 up to at least `most`. */
function nice(most, binary) {
  if (!(most > 0)) return [0, 1];
  const base = binary && most >= 1024 ? 1024 ** Math.floor(Math.log(most) / Math.log(1024)) : 1;
  const scaled = most / base;
  const power = 10 ** Math.floor(Math.log10(scaled / 2));
  const step = [1, 2, 2.5, 5, 10, 20].map((factor) => factor * power).find((candidate) => candidate * 3 >= scaled) ?? scaled;
  const ticks = [];
  for (let tick = 0; tick <= Math.ceil(scaled / step - 1e-9); tick += 1) ticks.push(tick * step * base);
  return ticks;
}
