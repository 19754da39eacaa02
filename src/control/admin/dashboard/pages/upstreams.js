// Upstreams and their backends: how each stands, since when, and orders to take it out of use and back.

import { get, post } from '../api.js';
import { confirm, notice } from '../dialogs.js';
import { h } from '../dom.js';
import { lastEvent } from '../findings.js';
import { ago, count, exact, ms, perSecond, rate } from '../format.js';
import { meter, mono, panel, state, table } from '../parts.js';

export const title = 'Upstreams';
export const every = 2000;

export async function load() {
  const [upstreams, events] = await Promise.all([get('upstreams'), get('events', { limit: 200 }).catch(() => null)]);
  return { upstreams: upstreams.data ?? upstreams, events: events?.data ?? [] };
}

export function view(app, { upstreams, events }) {
  if (!upstreams.length) return h('p', { class: 'empty' }, 'No upstream is configured.');
  return upstreams.map((upstream) => {
    const up = upstream.backends.filter((backend) => backend.state === 'up').length;
    const aside = [
      upstream.waiting > 0 ? h('b', { class: 'bad-text' }, `${exact(upstream.waiting)} wait for a place`) : null,
      h('span', { class: up === upstream.backends.length ? 'muted' : 'bad-text' }, `${up} of ${upstream.backends.length} up`),
    ];
    return panel(upstream.name, { className: 'flush', aside }, table({
      label: `Backends of ${upstream.name}`, rows: upstream.backends, rowKey: (backend) => backend.address, empty: 'It has no backend.',
      columns: [
        { name: 'address', width: '16%', title: 'Backend', wide: true, lead: true, cell: (backend) => mono(backend.address) },
        { name: 'state', width: '7%', title: 'State', cell: (backend) => state(backend.state) },
        { name: 'since', width: '8%', title: 'Since', cell: (backend) => since(backend, events) },
        { name: 'check', width: '17%', title: 'Last check', wide: true, cell: (backend) => check(backend) },
        { name: 'connections', width: '10%', title: 'Open', num: true, cell: (backend) => open(backend) },
        { name: 'new', width: '5%', title: 'New', num: true, cell: (backend) => rate(backend.connects_per_second) },
        { name: 'up', width: '7%', title: 'Up', num: true, minor: true, cell: (backend) => perSecond(backend.bytes_up_per_second) },
        { name: 'down', width: '7%', title: 'Down', num: true, cell: (backend) => perSecond(backend.bytes_down_per_second) },
        { name: 'failures', width: '6%', title: 'Failures', num: true, cell: (backend) => h('span', { class: hasGrown(app, upstream, backend) ? 'bad-text' : backend.connect_failures ? undefined : 'muted' }, exact(backend.connect_failures)) },
        { name: 'ejections', width: '6%', title: 'Ejected', num: true, minor: true, cell: (backend) => h('span', { class: backend.ejections ? '' : 'muted' }, exact(backend.ejections)) },
        app.canWrite() && { name: 'orders', width: '16%', title: 'Orders', actions: true, cell: (backend) => orders(app, upstream, backend) },
      ].filter(Boolean),
    }));
  });
}

/** Failures that are more than a minute ago are the past. */
function hasGrown(app, upstream, backend) {
  const same = (was) => was.name === upstream.name;
  const then = app.before()?.upstreams?.find(same)?.backends.find((was) => was.address === backend.address);
  return then !== undefined && backend.connect_failures > then.connect_failures;
}

function since(backend, events) {
  const when = backend.since ? new Date(backend.since) : lastEvent(events, backend.address);
  return when ? h('time', { datetime: when.toISOString(), title: when.toISOString() }, ago(when)) : null;
}

function check(backend) {
  const last = backend.last_check;
  if (!last) return null;
  return h('span', { class: last.error ? 'bad-text' : undefined, title: last.error ?? undefined }, `${ago(last.time)}: `, last.error ?? `passed, ${ms(last.took_ms)}`);
}

function open(backend) {
  const { used, limit } = backend.connections;
  return limit ? meter(used / limit, `${exact(used)} / ${count(limit)}`) : exact(used);
}

const ORDERS = {
  drain: { act: 'Drain', title: 'Drain this backend?', text: (name) => `${name} gets no new connections; live ones go on.` },
  down: { act: 'Take down', title: 'Take this backend down?', text: (name) => `${name} gets no new connections, and live ones are cut where its upstream says on_down = "close".`, grave: true },
  up: { act: 'Put up' },
};

function orders(app, upstream, backend) {
  const can = backend.state === 'up' ? ['drain', 'down'] : backend.state === 'drained' ? ['up', 'down'] : ['up'];
  return h('div', { class: 'row-buttons' }, can.map((order) => h('button', { type: 'button', key: order, class: 'button small', 'aria-label': `${ORDERS[order].act} ${backend.address}`, onclick: () => give(app, upstream, backend, order) }, ORDERS[order].act)));
}

async function give(app, upstream, backend, order) {
  const { title: question, text, act, grave } = ORDERS[order];
  if (question && !(await confirm({ title: question, text: text(backend.address), act, grave }))) return;
  try {
    await post(`upstreams/${encodeURIComponent(upstream.name)}/backends/${encodeURIComponent(backend.address)}/${order}`);
    notice(`${backend.address}: ${order}.`);
  } catch (error) {
    notice(`${backend.address}: ${error.message}`, 'bad');
  }
  app.refresh();
}
