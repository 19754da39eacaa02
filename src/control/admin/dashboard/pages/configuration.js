// The configuration in force, without its secrets, and the button that reads the file again.

import { get, post } from '../api.js';
import { h } from '../dom.js';
import { clock } from '../format.js';
import { badge, facts, mono, panel } from '../parts.js';

export const title = 'Configuration';
export const every = 5000;

const last = { busy: false, generation: null, errors: [], at: null };

export async function load() {
  return { config: await get('config') };
}

export function view(app, { config }) {
  const { status } = app;
  return [
    panel('In force', { key: 'force' },
      facts([
        ['File', mono(status?.config ?? 'the built-in example')],
        ['Generation', String(status?.generation ?? '')],
        ['Reloads', status && `${status.totals.reloads} taken, ${status.totals.reloads_refused} refused`],
      ]),
      app.canWrite() ? h('div', { class: 'buttons left' }, h('button', { type: 'button', class: 'button primary', disabled: last.busy, onclick: () => reload(app) }, last.busy ? 'Reading …' : 'Reload the file'), h('span', { class: 'muted' }, 'New connections get what is new; live ones go on as they began. A file with errors changes nothing.')) : null,
      h('div', { role: 'status', key: 'outcome' },
        last.errors.length ? h('div', { class: 'refused', key: 'errors' },
          h('b', null, `Nothing was changed: the file has ${grave(last.errors) === 1 ? 'an error' : `${grave(last.errors)} errors`}.`),
          h('ol', null, last.errors.map((error, index) => h('li', { key: `${index}-${error}` }, place(error))))) : null,
        last.generation !== null && !last.errors.length ? h('p', { class: 'verdict good', key: 'taken' }, h('b', null, `Generation ${last.generation}`), h('span', null, `in force since ${clock(last.at)}`)) : null)),
    Object.entries(config).map(([name, value]) => section(name, value)),
  ];
}

const isWarning = (error) => /^\S+: warning: /.test(error);
const grave = (errors) => errors.filter((error) => !isWarning(error)).length;

/** `file:line:column: message (hint)`, with its parts told apart. */
function place(error) {
  const [, at, message] = /^(\S+:\d+:\d+): (.*)$/s.exec(error) ?? [null, '', error];
  const [, said, hint] = /^(.*?) \((.*)\)$/s.exec(message) ?? [null, message, ''];
  return [at ? h('span', { class: 'mono place' }, at) : null, isWarning(error) ? badge('warning', 'warn') : null, h('span', null, ` ${said.replace(/^warning: /, '')}`), hint ? h('span', { class: 'muted' }, ` ${hint}`) : null];
}

async function reload(app) {
  Object.assign(last, { busy: true, errors: [], generation: null });
  app.render();
  try {
    const { generation } = await post('reload');
    Object.assign(last, { generation, at: Date.now() });
  } catch (error) {
    last.errors = error.errors.length ? error.errors : [error.message];
  }
  last.busy = false;
  app.refresh();
}

/** A table of the file, or all tables of one name. */
function section(name, value) {
  const isMany = Array.isArray(value) && value.every((item) => item && typeof item === 'object');
  const items = isMany ? value : [value];
  const heading = isMany ? `[[${name}]]` : `[${name}]`;
  if (isMany && !items.length) return null;
  return h('details', { class: 'panel config', key: name, open: true }, h('summary', null, h('span', { class: 'mono' }, heading), isMany ? h('span', { class: 'muted num' }, ` ${items.length}`) : null),
    h('div', { class: 'config-items' }, items.map((item, index) => h('div', { class: 'config-item', key: item?.name ?? index }, keys(item)))));
}

function keys(table, prefix = '') {
  if (!table || typeof table !== 'object' || Array.isArray(table)) return h('code', null, written(table));
  return h('dl', { class: 'keys' }, rows(table, prefix));
}

function rows(table, prefix) {
  const names = Object.entries(table).sort(([a], [b]) => (b === 'name') - (a === 'name'));
  return names.flatMap(([name, value]) => {
    const isTable = value && typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length > 3;
    if (isTable) return rows(value, `${prefix}${name}.`);
    const isList = Array.isArray(value) && value.length > 1 && value.every((item) => item && typeof item === 'object');
    if (isList) return [h('div', { key: `${prefix}${name}` }, h('dt', null, `${prefix}${name}`), h('dd', null, value.map((item, index) => h('div', { key: String(index), class: 'line' }, written(item)))))];
    return [h('div', { key: `${prefix}${name}` }, h('dt', null, `${prefix}${name}`), h('dd', null, written(value)))];
  });
}

/** As the file would have it. */
function written(value) {
  if (Array.isArray(value)) return `[${value.map(written).join(', ')}]`;
  if (value && typeof value === 'object') return `{ ${Object.entries(value).map(([name, inner]) => `${name} = ${written(inner)}`).join(', ')} }`;
  return JSON.stringify(value) ?? '';
}
