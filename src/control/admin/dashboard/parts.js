// Parts that several pages are made of.

import { draw } from './chart.js';
import { h } from './dom.js';
import { DASH, clock, words } from './format.js';

/** A word in a coloured pill; the word itself says it all, the colour only helps. */
export const badge = (text, tone = 'plain') => h('span', { class: `badge ${tone}` }, text);

const TONES = {
  up: 'good', active: 'good', ok: 'good', allow: 'good', closed: 'plain', idle: 'plain', info: 'plain',
  drained: 'warn', ejected: 'warn', rejected: 'warn', warning: 'warn', client: 'warn',
  down: 'bad', failed: 'bad', error: 'bad', backend: 'bad', upstream: 'bad', us: 'bad', proxy: 'bad', block: 'bad', disabled: 'bad',
};
export const state = (word) => badge(words(word), TONES[word] ?? 'plain');
export const toneOf = (word) => TONES[word] ?? 'plain';

/** A share from 0 to 1 as a bar with its number beside it. */
export function meter(share, text, tone) {
  const clamped = Math.max(0, Math.min(1, Number.isFinite(share) ? share : 0));
  const chosen = tone ?? (clamped >= 0.9 ? 'bad' : clamped >= 0.7 ? 'warn' : 'accent');
  return h('span', { class: 'meter' },
    h('span', { class: 'meter-track', 'aria-hidden': 'true' }, h('span', { class: `meter-fill ${chosen}`, style: { width: `${(clamped * 100).toFixed(1)}%` } })),
    h('span', { class: 'meter-text num' }, text));
}

export function panel(title, props, ...children) {
  const { aside, key, className } = props ?? {};
  return h('section', { class: `panel ${className ?? ''}`, key: key ?? title, 'aria-label': title },
    h('header', { class: 'panel-head' }, h('h2', null, title), aside && h('div', { class: 'panel-aside' }, aside)),
    ...children);
}

/** columns: [{ name, title, cell(row), num, sort, minor }]; on a narrow window every row becomes a card. */
export function table({ label, columns, rows, rowKey, onrow, sort, order, onsort, empty, rowClass }) {
  if (!rows.length) return h('p', { class: 'empty', key: 'empty' }, empty ?? 'Nothing here.');
  const heading = (column) => {
    const isSorted = column.sort && column.sort === sort;
    const aria = isSorted ? (order === 'asc' ? 'ascending' : 'descending') : undefined;
    return h('th', { scope: 'col', key: column.name, class: cellClass(column), style: column.width ? { width: column.width } : {}, 'aria-sort': aria },
      column.sort
        ? h('button', { type: 'button', class: 'sort', onclick: () => onsort(column.sort) }, column.title, h('span', { class: 'arrow', 'aria-hidden': 'true' }, isSorted ? (order === 'asc' ? '↑' : '↓') : ''))
        : column.title);
  };
  const line = (row) => h('tr', {
    key: rowKey(row),
    class: [onrow && 'clickable', rowClass?.(row)].filter(Boolean).join(' ') || undefined,
    tabindex: onrow ? '0' : undefined,
    onclick: onrow ? (event) => { if (!event.target.closest('button, a') && !String(getSelection())) onrow(row); } : undefined,
    onkeydown: onrow ? (event) => { if (event.key === 'Enter' && event.target === event.currentTarget) onrow(row); } : undefined,
  }, columns.map((column) => {
    const value = column.cell(row);
    return h('td', { key: column.name, class: cellClass(column), 'data-label': column.title }, value === null || value === undefined || value === '' ? h('span', { class: 'none' }, DASH) : value);
  }));
  return h('div', { class: 'table-wrap', key: 'table' },
    h('table', { 'aria-label': label, class: columns[0].width ? 'fixed' : undefined }, h('thead', null, h('tr', null, columns.map(heading))), h('tbody', null, rows.map(line))));
}

const cellClass = (column) => [column.num && 'num', column.minor && 'minor', column.wide && 'wide', column.lead && 'lead', column.actions && 'actions'].filter(Boolean).join(' ') || undefined;

/** A graph with its newest values as its legend. series: [{ name, colour, points, fill, tone }] */
export function graph({ title, series, format, window, binary, floor, note, height, gap }) {
  const to = Date.now() / 1000;
  const spec = { series, format, from: to - window, to, binary, floor, gap };
  const now = (line) => line.points.at(-1)?.v;
  const most = (line) => Math.max(...line.points.filter((point) => point.t >= spec.from).map((point) => point.v).filter(Number.isFinite), 0);
  const said = series.map((line) => `${line.name} ${format(now(line))}, at most ${format(most(line))}`).join('; ');
  return h('figure', { class: 'graph', key: title },
    h('figcaption', null,
      h('span', { class: 'graph-title' }, title),
      h('span', { class: 'legend' }, series.map((line) => h('span', { class: 'legend-item', key: line.name },
        h('span', { class: 'swatch', 'aria-hidden': 'true', style: { background: `var(${line.colour})` } }),
        `${line.name} `, h('b', { class: 'num' }, format(now(line))))))),
    h('canvas', { role: 'img', 'aria-label': `${title}: ${said}`, style: { height: `${height ?? 132}px` }, update: (canvas) => draw(canvas, spec) }),
    note && h('p', { class: 'note' }, note));
}

/** Facts by name; those without a value are left out. */
export const facts = (rows) => h('dl', { class: 'facts' }, rows.filter(([, value]) => value !== null && value !== undefined && value !== '').map(([name, value]) => h('div', { key: name }, h('dt', null, name), h('dd', null, value))));

export const time = (iso, withSeconds = true) => (iso ? h('time', { datetime: iso, title: iso }, clock(iso, withSeconds)) : null);

export const mono = (text) => h('span', { class: 'mono' }, text);

export function choice({ label, options, value, onchange, name }) {
  return h('div', { class: 'segments', role: 'radiogroup', 'aria-label': label, key: label }, options.map(([word, text]) => h('label', { key: word || 'all', class: word === value ? 'chosen' : undefined },
    h('input', { type: 'radio', name: name ?? label, value: word, checked: word === value, onchange: () => onchange(word) }), text)));
}

export function field(label, control, props) {
  return h('label', { class: `field ${props?.className ?? ''}`, key: label }, h('span', { class: 'field-label' }, label), control);
}

export const failure = (error) => h('div', { class: 'banner bad', role: 'alert', key: 'failure' }, h('b', null, 'This could not be read. '), error.message);
export const loading = () => h('p', { class: 'empty', key: 'loading' }, 'Asking arus …');
