// What has happened: reloads, backends that went and came, ejections, faults, limits, bans.

import { get } from '../api.js';
import { h } from '../dom.js';
import { exact, words } from '../format.js';
import { choice, field, panel, state, table, time } from '../parts.js';

export const title = 'Events';
export const every = 3000;

const SEVERITIES = [['', 'All'], ['warning', 'Warnings'], ['error', 'Errors']];

export async function load(app) {
  const { severity, category } = app.params;
  return get('events', { severity, category, limit: 500 });
}

const known = new Set();

export function view(app, { data }) {
  const { params } = app;
  const change = (changes) => app.go('events', { ...params, ...changes });
  data.forEach((event) => known.add(event.category));
  const wanted = (params.text ?? '').toLowerCase();
  const shown = wanted ? data.filter((event) => `${event.message} ${JSON.stringify(event.details ?? {})}`.toLowerCase().includes(wanted)) : data;
  return [
    h('form', { class: 'filters', key: 'filters', role: 'search', 'aria-label': 'Filter', onsubmit: (event) => event.preventDefault() },
      choice({ label: 'Severity', options: SEVERITIES, value: params.severity ?? '', onchange: (severity) => change({ severity }) }),
      field('Category', h('select', { value: params.category ?? '', onchange: (event) => change({ category: event.target.value }) }, h('option', { value: '' }, 'every'), [...known].sort().map((name) => h('option', { value: name, key: name }, words(name))))),
      field('Text', h('input', { type: 'search', value: params.text ?? '', 'data-filter': '', autocomplete: 'off', spellcheck: 'false', oninput: (event) => { history.replaceState(null, '', `#/events?${new URLSearchParams({ ...params, text: event.target.value })}`); app.params.text = event.target.value; app.render(); } }))),
    panel('Newest first', { className: 'flush', aside: h('span', { class: 'muted num' }, `${exact(shown.length)} events`) }, table({
      label: 'Events', rows: shown.map((event, index) => ({ ...event, index })), rowKey: (event) => `${event.time}-${event.message}-${shown.length - event.index}`,
      empty: data.length ? 'No event fits.' : 'Nothing has happened yet.',
      columns: [
        { name: 'time', title: 'Time', cell: (event) => time(event.time) },
        { name: 'severity', title: 'Severity', cell: (event) => state(event.severity) },
        { name: 'category', title: 'Category', cell: (event) => words(event.category) },
        { name: 'message', title: 'What', wide: true, lead: true, cell: (event) => h('span', null, event.message, details(event.details)) },
      ],
    })),
  ];
}

function details(all) {
  const entries = Object.entries(all ?? {}).filter(([, value]) => value !== null && value !== '');
  if (!entries.length) return null;
  const label = (name) => (name === 'left_out' ? 'not shown since the last one' : words(name));
  const text = (value) => (typeof value === 'object' ? JSON.stringify(value) : String(value));
  return h('span', { class: 'details' }, entries.map(([name, value]) => h('span', { key: name }, h('span', { class: 'muted' }, `${label(name)} `), text(value))));
}
