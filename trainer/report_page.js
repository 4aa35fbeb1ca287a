'use strict';

const data = JSON.parse(document.getElementById('data').textContent);
const byId = (id) => document.getElementById(id);
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// ---- numbers and elements ----------------------------------------------------------------------

const whole = new Intl.NumberFormat('en-US', {maximumFractionDigits: 0});

function short(value) {
  if (value === null || value === undefined) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size >= 1e12) return +(value / 1e12).toPrecision(3) + 'T';
  if (size >= 1e9) return +(value / 1e9).toPrecision(3) + 'B';
  if (size >= 1e6) return +(value / 1e6).toPrecision(3) + 'M';
  if (size >= 1e4) return +(value / 1e3).toPrecision(3) + 'K';
  if (size < 1e-3) return (+value.toPrecision(3)).toExponential().replace('e-', 'e−');
  return String(+value.toPrecision(4));
}
const percent = (value) => value === null || value === undefined ? '–' : (100 * value).toFixed(1) + '%';
const roundPercent = (value) => +(100 * value).toPrecision(4) + '%';

function element(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
function drawn(tag, attributes, text) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
function fillTable(table, caption, head, rows) {
  table.append(element('caption', caption));
  const top = element('thead'), line = element('tr');
  head.forEach((text) => line.append(element('th', text, {scope: 'col'})));
  top.append(line);
  const body = element('tbody');
  for (const row of rows) {
    const cells = element('tr');
    row.forEach((text) => cells.append(element('td', text)));
    body.append(cells);
  }
  table.append(top, body);
}

// ---- scales ------------------------------------------------------------------------------------

// A few round numbers between low and high, `smallest` or more apart.
function roundTicks(low, high, smallest = 0) {
  const rough = Math.max((high - low) / 5, smallest), power = 10 ** Math.floor(Math.log10(rough));
  const step = (smallest ? [1, 2, 5, 10] : [1, 2, 2.5, 5, 10]).map((m) => m * power).find((s) => s >= rough);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) {
    ticks.push(+(i * step).toPrecision(12));
  }
  return ticks;
}
function logTicks(low, high) {
  const ticks = [];
  const decades = Math.log10(high / low);
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); ++e) {
    for (const m of decades < 2.5 ? [1, 3] : [1]) ticks.push(m * 10 ** e);
  }
  const every = Math.ceil(ticks.length / 9);
  return ticks.filter((t, i) => t >= low * 0.999 && t <= high * 1.001 && i % every === 0);
}
// Maps the range of `values` to pixels; wide positive ranges get a logarithmic scale. Wanted may be
// zero (the scale begins there) or steps (an axis of whole numbers without margins).
function makeScale(values, pixelLow, pixelHigh, wanted = {}) {
  const finite = values.filter((v) => v !== null);
  let low = Math.min(...finite), high = Math.max(...finite);
  if (wanted.zero) low = Math.min(low, 0);
  const log = !wanted.zero && !wanted.steps && low > 0 && high / low > 30;
  if (high === low) {
    const around = Math.abs(high) * 0.1;
    high += around || 1;
    low -= wanted.zero ? 0 : around;
  }
  if (log) { low /= 1.15; high *= 1.15; } else if (!wanted.steps) {
    const margin = 0.05 * (high - low);
    high += margin;
    if (!wanted.zero || low < 0) low -= margin;
  }
  const f = log ? Math.log : (v) => v;
  const clamp = (v) => Math.min(high, Math.max(low, v));
  const to = (v) => pixelLow + (f(clamp(v)) - f(low)) / (f(high) - f(low)) * (pixelHigh - pixelLow);
  return {to, log, ticks: log ? logTicks(low, high) : roundTicks(low, high, wanted.steps ? 1 : 0)};
}

// ---- charts of curves --------------------------------------------------------------------------

// All charts, {redraw(), draw(step)} each, share the step under the pointer. They are redrawn when the
// page changes its width or its colours.
const charts = [];
let cursorStep = null;
function moveCursor(step) {
  cursorStep = step;
  charts.forEach((chart) => chart.draw(step));
}

function nearest(x, step) {
  let low = 0, high = x.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < step) low = middle + 1; else high = middle;
  }
  return low > 0 && step - x[low - 1] < x[low] - step ? low - 1 : low;
}

// The path through the points, broken where there is none.
function path(x, values, toX, toY) {
  let text = '', pen = 'M';
  values.forEach((value, i) => {
    if (value === null) { pen = 'M'; return; }
    text += pen + toX(x[i]).toFixed(1) + ' ' + toY(value).toFixed(1);
    pen = 'L';
  });
  return text;
}
function bandPath(x, low, high, toX, toY) {
  const there = x.map((_, i) => i).filter((i) => low[i] !== null);
  if (there.length < 2) return '';
  const up = there.map((i) => toX(x[i]).toFixed(1) + ' ' + toY(high[i]).toFixed(1));
  const down = there.reverse().map((i) => toX(x[i]).toFixed(1) + ' ' + toY(low[i]).toFixed(1));
  return 'M' + up.concat(down).join('L') + 'Z';
}

// curves: [{label, color, x, mean, low, high, dots}]; one without any value is left out.
function addChart(parent, {title, curves, format = short, formatTick = format, wide = false, height = 170, scale = {}}) {
  curves = curves.filter((curve) => curve.mean.some((value) => value !== null));
  if (curves.length === 0) return;
  const figure = element('figure', undefined, wide ? {class: 'wide'} : {});
  const caption = element('figcaption');
  const at = element('span', '', {class: 'at'});
  caption.append(element('strong', title));
  const readings = curves.map((curve) => {
    const key = element('span', undefined, {class: 'key'}), value = element('b', '');
    const swatch = element('i');
    swatch.style.background = `var(${curve.color})`;
    key.append(swatch, curves.length > 1 ? curve.label + ' ' : '', value);
    caption.append(key);
    return value;
  });
  caption.append(at);
  const describe = curves.map((curve) => {
    const there = curve.mean.filter((value) => value !== null);
    return `${curve.label} from ${format(there[0])} to ${format(there.at(-1))}`;
  }).join(', ');
  const svg = drawn('svg', {role: 'img', tabindex: 0, 'aria-label': `${title}: ${describe}`});
  figure.append(caption, svg);
  parent.append(figure);

  const left = 46, right = 8, top = 8, bottom = 20;
  const steps = curves.flatMap((curve) => curve.x);
  let toX, toY, cursor, fromX;

  function redraw() {
    const width = Math.max(160, svg.clientWidth || figure.clientWidth - 28);
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('height', height);
    svg.replaceChildren();
    const values = curves.flatMap((curve) => curve.mean);
    const y = makeScale(values, height - bottom, top, scale);
    const x = makeScale(steps, left, width - right, {steps: true});
    toX = x.to; toY = y.to;
    const first = Math.min(...steps), last = Math.max(...steps);
    fromX = (pixel) => first + (pixel - left) / (width - right - left) * (last - first);
    for (const tick of y.ticks) {
      svg.append(drawn('line', {class: 'rule', x1: left, x2: width - right, y1: toY(tick), y2: toY(tick)}));
      svg.append(drawn('text', {x: left - 7, y: toY(tick) + 4, 'text-anchor': 'end'}, formatTick(tick)));
    }
    const room = Math.floor(width / 70);
    const ticks = x.ticks, every = Math.ceil(ticks.length / room);
    ticks.filter((_, i) => i % every === 0).forEach((tick) => {
      const near = toX(tick) > width - right - 16 ? 'end' : 'middle';
      svg.append(drawn('text', {x: toX(tick), y: height - 4, 'text-anchor': near}, short(tick)));
    });
    for (const curve of curves) {
      if (curve.low) {
        svg.append(drawn('path', {d: bandPath(curve.x, curve.low, curve.high, toX, toY),
          fill: `var(${curve.color})`, opacity: style('--band')}));
      }
      svg.append(drawn('path', {d: path(curve.x, curve.mean, toX, toY), fill: 'none',
        stroke: `var(${curve.color})`, 'stroke-width': 1.7, 'stroke-linejoin': 'round'}));
      if (curve.dots || curve.x.length === 1) {
        curve.x.forEach((step, i) => curve.mean[i] === null || svg.append(drawn('circle',
          {cx: toX(step), cy: toY(curve.mean[i]), r: 3, fill: `var(${curve.color})`})));
      }
    }
    cursor = drawn('line', {class: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden'});
    svg.append(cursor);
    draw(cursorStep);
  }

  function draw(step) {
    curves.forEach((curve, k) => {
      const there = curve.mean.map((value, i) => i).filter((i) => curve.mean[i] !== null);
      const i = step === null ? there.at(-1) : nearest(curve.x, step);
      readings[k].textContent = format(curve.mean[i]);
    });
    at.textContent = step === null ? '' : 'step ' + whole.format(step);
    cursor.setAttribute('visibility', step === null ? 'hidden' : 'visible');
    if (step !== null) { cursor.setAttribute('x1', toX(step)); cursor.setAttribute('x2', toX(step)); }
  }

  const axis = curves[0].x;
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    moveCursor(axis[nearest(axis, fromX(event.clientX - box.left))]);
  });
  svg.addEventListener('pointerleave', () => moveCursor(null));
  svg.addEventListener('blur', () => moveCursor(null));
  svg.addEventListener('keydown', (event) => {
    const move = {ArrowLeft: -1, ArrowRight: 1, PageDown: -20, PageUp: 20}[event.key];
    if (event.key === 'Escape') moveCursor(null);
    if (!move) return;
    event.preventDefault();
    const from = cursorStep === null ? axis.length - 1 : nearest(axis, cursorStep);
    moveCursor(axis[Math.min(axis.length - 1, Math.max(0, from + move))]);
  });
  charts.push({redraw, draw});
}

const curve = (name, label, color) => {
  const series = data.series[name] || {mean: []};
  return {label, color, x: data.x, ...series};
};

function addTrainingCharts() {
  const parent = byId('charts');
  const shares = {format: percent, formatTick: roundPercent, scale: {zero: true}};
  const add = (title, curves, more = {}) => addChart(parent, {title, curves, ...more});
  add('Loss (nats a token)', [curve('loss', 'loss', '--one')], {wide: true, height: 280});
  add('Full-attention ratio', [curve('full_ratio', 'all tokens', '--one'),
    curve('full_ratio_far', 'beyond the window', '--two')], shares);
  add('Regularizer', [curve('regularizer', 'regularizer', '--two')]);
  add('Gradient norm, before clipping', [curve('grad_norm', 'norm', '--three')]);
  add('Learning rate', [curve('learning_rate', 'rate', '--one')], {scale: {zero: true}});
  add('Speed (tokens a second)', [curve('tokens_per_second', 'tokens a second', '--one')],
    {scale: {zero: true}});
  add('Model FLOPs utilisation', [curve('mfu', 'MFU', '--three')], shares);
  add('Seconds a step', [curve('step_seconds', 'step', '--one'),
    curve('data_seconds', 'waiting for data', '--two')], {scale: {zero: true}});
  add('Disagreement of the branches', [curve('disagreement_mean', 'mean', '--two')]);
  add('Router logit', [curve('router_logit_mean', 'mean', '--one'),
    curve('router_logit_std', 'standard deviation', '--two')]);
}

// ---- the picture of layers ---------------------------------------------------------------------

function colorOf(share) {
  const dark = matchMedia('(prefers-color-scheme: dark)').matches;
  const stops = dark ? [[24, 30, 40], [33, 68, 138], [84, 143, 255], [232, 240, 255]]
                     : [[235, 239, 246], [150, 184, 245], [38, 92, 214], [13, 27, 78]];
  const at = Math.min(0.9999, Math.max(0, share)) * (stops.length - 1), i = Math.floor(at);
  const mixed = stops[i].map((from, c) => Math.round(from + (at - i) * (stops[i + 1][c] - from)));
  return `rgb(${mixed.join(',')})`;
}

function addHeat() {
  const {x, rows} = data.layers;
  if (rows.length === 0) { byId('routing').remove(); return; }
  const largest = Math.max(...rows.flat().filter((v) => v !== null), 0);
  const roundUp = (share) => [0.05, 0.1, 0.25, 0.5, 0.75, 1].find((limit) => share <= limit) || 1;
  const top = roundUp(largest);
  const finals = rows.map((row, i) => data.routing[i] ? data.routing[i].full_ratio : row.at(-1));
  const fars = rows.map((_, i) => data.routing[i] ? data.routing[i].full_ratio_far : null);
  const barTop = roundUp(Math.max(...finals, ...fars));

  const figure = element('figure'), caption = element('figcaption');
  const reading = element('span', '', {class: 'at'});
  const legend = element('span', undefined, {class: 'legend'}), strip = element('canvas');
  strip.width = 120; strip.height = 1;
  legend.append('0%', strip, roundPercent(top));
  caption.append(element('strong', 'Full-attention ratio'), legend, reading);
  const strongest = finals.indexOf(Math.max(...finals)), weakest = finals.indexOf(Math.min(...finals));
  const svg = drawn('svg', {role: 'img', tabindex: 0, 'aria-label':
    `Full-attention ratio of ${rows.length} layers over ${whole.format(data.steps)} steps. At the end ` +
    `highest in layer ${strongest + 1} (${percent(finals[strongest])}), lowest in layer ` +
    `${weakest + 1} (${percent(finals[weakest])}).`});
  figure.append(caption, svg);
  byId('heat').append(figure);

  const rowHeight = Math.max(9, Math.min(20, 460 / rows.length));
  const left = 46, head = 18, foot = 20, height = head + rows.length * rowHeight + foot;
  let mapWidth = 0, cursor;

  function picture() {
    const canvas = element('canvas');
    canvas.width = x.length; canvas.height = rows.length;
    const pen = canvas.getContext('2d');
    rows.forEach((row, r) => row.forEach((value, c) => {
      if (value === null) return;
      pen.fillStyle = colorOf(value / top);
      pen.fillRect(c, r, 1, 1);
    }));
    return canvas.toDataURL();
  }

  function redraw() {
    const pen = strip.getContext('2d');
    for (let i = 0; i < 120; ++i) { pen.fillStyle = colorOf(i / 119); pen.fillRect(i, 0, 1, 1); }
    const width = Math.max(280, svg.clientWidth);
    const barWidth = Math.min(240, width * 0.3);
    mapWidth = width - left - barWidth - 62;
    const barLeft = left + mapWidth + 14;
    svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    svg.setAttribute('height', height);
    svg.replaceChildren();
    svg.append(drawn('image', {href: picture(), x: left, y: head, width: mapWidth,
      height: rows.length * rowHeight, preserveAspectRatio: 'none', style: 'image-rendering: pixelated'}));
    svg.append(drawn('text', {x: left - 7, y: 11, 'text-anchor': 'end'}, 'layer'));
    svg.append(drawn('text', {x: barLeft, y: 11}, 'at the end'));
    const every = Math.ceil(12 / rowHeight);
    rows.forEach((_, r) => {
      const y = head + r * rowHeight;
      if (r % every === 0) {
        svg.append(drawn('text', {x: left - 7, y: y + rowHeight / 2 + 4, 'text-anchor': 'end'}, r + 1));
        svg.append(drawn('text', {x: barLeft + barWidth + 4, y: y + rowHeight / 2 + 4}, percent(finals[r])));
      }
      svg.append(drawn('rect', {x: barLeft, y: y + 1, width: barWidth, height: rowHeight - 2, rx: 2,
        fill: 'var(--line)', opacity: 0.45}));
      svg.append(drawn('rect', {x: barLeft, y: y + 1, width: barWidth * Math.min(1, finals[r] / barTop),
        height: rowHeight - 2, rx: 2, fill: 'var(--one)'}));
      if (fars[r] !== null) {
        const at = barLeft + barWidth * Math.min(1, fars[r] / barTop);
        svg.append(drawn('line', {x1: at, x2: at, y1: y, y2: y + rowHeight, stroke: 'var(--two)', 'stroke-width': 2}));
      }
    });
    const scale = makeScale([x[0], x.at(-1)], left, left + mapWidth, {steps: true});
    scale.ticks.filter((_, i) => i % Math.ceil(scale.ticks.length * 60 / mapWidth) === 0)
      .forEach((tick) => svg.append(drawn('text',
        {x: scale.to(tick), y: height - 5, 'text-anchor': 'middle'}, short(tick))));
    cursor = drawn('line', {class: 'cursor', y1: head, y2: height - foot, visibility: 'hidden'});
    svg.append(cursor);
    draw(cursorStep);
  }
  function draw(step) {
    cursor.setAttribute('visibility', step === null ? 'hidden' : 'visible');
    if (step === null) { reading.textContent = ''; return; }
    const at = left + mapWidth * (nearest(x, step) + 0.5) / x.length;
    cursor.setAttribute('x1', at); cursor.setAttribute('x2', at);
  }
  svg.addEventListener('pointermove', (event) => {
    const box = svg.getBoundingClientRect();
    const c = Math.floor((event.clientX - box.left - left) / mapWidth * x.length);
    const r = Math.floor((event.clientY - box.top - head) / rowHeight);
    if (c < 0 || c >= x.length || r < 0 || r >= rows.length) { moveCursor(null); return; }
    moveCursor(x[c]);
    reading.textContent = `layer ${r + 1}, step ${whole.format(x[c])}: ${percent(rows[r][c])}`;
  });
  svg.addEventListener('pointerleave', () => moveCursor(null));
  charts.push({redraw, draw});
}

function addRoutingTable() {
  if (data.routing.length === 0) { byId('routing-details').remove(); return; }
  fillTable(byId('routing-table'), 'From the last routing file of the run',
    ['Layer', 'Full ratio', 'Beyond the window', 'Logit mean', 'Logit std', 'Entropy (nats)', 'Gamma',
      'Disagreement'],
    data.routing.map((row) => [row.layer, percent(row.full_ratio), percent(row.full_ratio_far),
      short(row.logit_mean), short(row.logit_std), short(row.entropy), short(row.gamma_mean),
      short(row.disagreement_mean)]));
}

// ---- validation, summary, setup ----------------------------------------------------------------

function addValidation() {
  if (data.validation.length === 0) { byId('validation').remove(); return; }
  const colors = ['--one', '--two', '--three'];
  data.validation.forEach(({name, points}, i) => addChart(byId('validation-charts'), {
    title: `Perplexity on ${name}`,
    curves: [{label: name, color: colors[i % 3], dots: points.length <= 60,
      x: points.map((p) => p.step), mean: points.map((p) => p.perplexity)}],
  }));
  const rows = [];
  for (const {name, points} of data.validation) {
    const best = points.reduce((a, b) => (b.nll !== null && (a.nll === null || b.nll < a.nll) ? b : a));
    const marks = [[points[0], 'first'], [best, 'best'], [points.at(-1), 'last']];
    for (const point of new Set([points[0], best, points.at(-1)])) {
      const which = marks.filter((mark) => mark[0] === point).map((mark) => mark[1]);
      rows.push([name, which.join(', '), whole.format(point.step), point.nll === null ? '–' : point.nll.toFixed(4),
        short(point.perplexity), percent(point.full_ratio)]);
    }
  }
  fillTable(byId('validation-table'), 'The first, the best and the last validation of every set',
    ['Set', '', 'Step', 'NLL (nats a token)', 'Perplexity', 'Full ratio'], rows);
}

function lastOf(name) {
  const series = data.series[name];
  return series ? series.mean.filter((value) => value !== null).at(-1) : undefined;
}
function middleOf(name) {
  const values = ((data.series[name] || {}).mean || []).filter((v) => v !== null).sort((a, b) => a - b);
  return values[values.length >> 1];
}
function addSummary() {
  const tile = (label, value, detail) => {
    if (value === '–') return;
    const box = element('div', undefined, {class: 'tile'});
    box.append(element('div', label, {class: 'label'}), element('div', value, {class: 'value'}),
      element('div', detail || '\u00a0', {class: 'detail'}));
    byId('summary').append(box);
  };
  const loss = ((data.series.loss || {}).mean || []).filter((v) => v !== null);
  tile('Training loss', short(lastOf('loss')), `from ${short(loss[0])}`);
  if (data.validation.length > 0) {
    const {name, points} = data.validation[0];
    tile('Perplexity', short(points.at(-1).perplexity),
      (points.length > 1 ? `from ${short(points[0].perplexity)}, ` : '') + `on ${name}`);
  }
  tile('Full attention', percent(lastOf('full_ratio')), lastOf('full_ratio_far') && `beyond the window ${percent(lastOf('full_ratio_far'))}`);
  tile('Steps', whole.format(data.steps), `${short(data.tokens)} tokens`);
  tile('Speed', short(middleOf('tokens_per_second')), 'tokens a second (median)' + (middleOf('mfu') ? `, MFU ${percent(middleOf('mfu'))}` : ''));
  const memory = ((data.series.memory_gib || {}).high || []).filter((v) => v !== null);
  tile('Memory', memory.length ? short(Math.max(...memory)) + ' GiB' : '–', 'peak, per device');
  const skipped = Math.max(0, ...((data.series.skipped || {}).high || []));
  if (skipped > 0) tile('Skipped steps', whole.format(skipped), 'no update: not finite, or no target');
}

function addSetup() {
  byId('title').textContent = data.title;
  for (const [label, value] of data.facts) {
    const pair = element('div');
    pair.append(element('dt', label), element('dd', value));
    byId('facts').append(pair);
  }
  byId('config').textContent = data.config || 'not recorded';
  for (const [key, value] of Object.entries(data.environment)) {
    if (value === null || key === 'schema') continue;
    const row = element('tr');
    const text = Array.isArray(value) ? value.join(key === 'command_line' ? ' ' : ', ')
      : typeof value === 'object' ? Object.entries(value).map((pair) => pair.join(' ')).join(', ')
      : typeof value === 'number' ? String(+value.toPrecision(6)) : String(value);
    row.append(element('th', key.replaceAll('_', ' '), {scope: 'row'}), element('td', text));
    byId('environment').append(row);
  }
  byId('footer').textContent = `Written ${data.written}. All numbers are in metrics.jsonl beside this page.`;
}

addSetup();
addSummary();
addTrainingCharts();
addHeat();
addRoutingTable();
addValidation();
const redrawAll = () => charts.forEach((chart) => chart.redraw());
redrawAll();
addEventListener('resize', redrawAll);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redrawAll);
