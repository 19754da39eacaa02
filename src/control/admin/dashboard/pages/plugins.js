// Plugins: what is loaded, what it costs, and whether it fails.

import { get } from '../api.js';
import { h } from '../dom.js';
import { bytes, count, exact, many, ns } from '../format.js';
import { badge, facts, mono, panel, state } from '../parts.js';

export const title = 'Plugins';
export const every = 3000;

export async function load() {
  const answer = await get('plugins');
  return { plugins: answer.data ?? answer };
}

export function view(app, { plugins }) {
  if (!plugins.length) return h('p', { class: 'empty' }, 'No plugin is loaded. docs/PLUGINS.md shows how to write one.');
  return h('div', { class: 'cards' }, plugins.map((plugin) => panel(plugin.name, {
    aside: plugin.disabled ? state('disabled') : plugin.faults ? badge(many(plugin.faults, 'fault'), 'bad') : badge('no fault', 'good'),
  },
  h('div', { class: 'mini' },
    figure('Calls', count(plugin.calls)),
    figure('Per call p50', plugin.call_ns_p50 === null ? '–' : ns(plugin.call_ns_p50)),
    figure('p99', plugin.call_ns_p99 === null ? '–' : ns(plugin.call_ns_p99)),
    figure('Connections', count(plugin.connections))),
  facts([
    ['Library', `${plugin.library} ${plugin.version}`],
    ['File', mono(plugin.path)],
    ['SHA-256', h('span', { class: 'mono digest', title: plugin.sha256 }, plugin.sha256)],
    ['Generation', String(plugin.generation)],
    ['On a fault', plugin.on_fault],
    ['Calls over max_call', h('span', { class: plugin.over_max_call ? 'bad-text' : undefined }, exact(plugin.over_max_call))],
    ['In, out', `${bytes(plugin.bytes_in)}, ${bytes(plugin.bytes_out)}`],
    ['Log lines dropped', plugin.log_dropped ? exact(plugin.log_dropped) : null],
    ...Object.entries(plugin.counters ?? {}).map(([name, value]) => [name, exact(value)]),
  ]))));
}

const figure = (name, value) => h('div', { key: name }, h('b', { class: 'num' }, value), h('span', { class: 'muted' }, name));
