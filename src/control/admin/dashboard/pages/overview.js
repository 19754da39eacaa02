// What is wrong now, and how everything goes: is it us, the client or the backend; which shard, which upstream, since when.

import { get } from '../api.js';
import { h } from '../dom.js';
import { BLAMED, alike, findings } from '../findings.js';
import { ago, bytes, bytesOf, clock, count, exact, ms, percent, perSecond, rate, words } from '../format.js';
import { badge, choice, graph, meter, panel, state, table, time, toneOf } from '../parts.js';

export const title = 'Overview';
export const every = 2000;

const WINDOWS = { '5m': 300, '15m': 900, '1h': 3600, '6h': 21_600 };
const METRICS = ['connections_active', 'connections_per_second', 'bytes_up_per_second', 'bytes_down_per_second', 'failed_per_second', 'rejected_per_second', 'connect_p99_ms', 'first_byte_p99_ms'];
/** Failures are looked back at for so long. */
const RECENT_MS = 15 * 60_000;
/** What costs more is asked less often. */
const SELDOM_MS = 5500;
const RARELY_MS = 60_000;
const TOP_HOURS = 24;

const memory = { history: {}, events: [], verdicts: null, top: null, askedTop: 0, failed: null, rejected: null, asked: 0 };

export async function load(app) {
  const span = app.params.window in WINDOWS ? app.params.window : '15m';
  // An answer that one part does not give must not hide the others.
  const maybe = (promise) => promise.catch((error) => { if (error.code === 401 || error.code === 0) throw error; return null; });
  const asks = [
    ...METRICS.map((metric) => maybe(get('history', { metric, window: span })).then((history) => { memory.history[metric] = history?.samples ?? app.seen[metric] ?? []; })),
    maybe(get('events', { limit: 100 })).then((events) => { memory.events = events?.data ?? []; }),
  ];
  if (Date.now() - memory.asked > SELDOM_MS) {
    memory.asked = Date.now();
    const since = new Date(Date.now() - RECENT_MS).toISOString();
    asks.push(
      maybe(get('sessions/verdicts')).then((verdicts) => { memory.verdicts = verdicts; }),
      maybe(get('sessions', { state: 'failed', since, page_size: 200 })).then((page) => { memory.failed = page; }),
      maybe(get('sessions', { state: 'rejected', since, page_size: 100 })).then((page) => { memory.rejected = page; }));
  }
  if (Date.now() - memory.askedTop > RARELY_MS) {
    memory.askedTop = Date.now();
    asks.push(maybe(get('sessions/stats', { window_hours: TOP_HOURS })).then((top) => { memory.top = top; }));
  }
  await Promise.all(asks);
  return { span };
}

/** For the mark beside the page's name, on every page. */
export const trouble = (app) => findings({ status: app.status, before: app.before(), events: memory.events, history: memory.history });

export const tools = (app, data) => choice({
  label: 'Time shown', options: Object.keys(WINDOWS).map((word) => [word, word]), value: data.span,
  onchange: (window) => app.go('overview', { window }),
});

export function view(app, data) {
  const { status } = app;
  if (!status) return null;
  const { totals } = status;
  const { history } = memory;
  const last = (metric) => history[metric]?.at(-1)?.v;
  const window = WINDOWS[data.span];
  const line = (name, metric, colour, fill) => ({ name, colour, points: history[metric], fill });
  return [
    wrong(app),
    h('div', { class: 'tiles six', key: 'tiles' },
      tile('Connections', count(totals.active), '', `of ${count(status.limits.connections.limit)}`),
      tile('New', count(totals.accepted_per_second), '/s', `${exact(totals.accepted)} so far`),
      tile('Up', ...split(totals.bytes_up_per_second), `${bytes(totals.bytes_up)} so far`),
      tile('Down', ...split(totals.bytes_down_per_second), `${bytes(totals.bytes_down)} so far`),
      tile('First byte p99', ...splitMs(last('first_byte_p99_ms') ?? status.latency?.first_byte?.p99 / 1000), `connect p99 ${ms(last('connect_p99_ms') ?? status.latency?.connect?.p99 / 1000)}`),
      tile('Failed', count(last('failed_per_second') ?? 0), '/s', `${exact(totals.failed)} failed, ${exact(totals.rejected)} refused`, last('failed_per_second') > 0 ? 'bad' : '')),
    h('div', { class: 'graphs', key: 'graphs' },
      graph({ title: 'Throughput', window, binary: true, format: perSecond, floor: 1024, series: [line('down', 'bytes_down_per_second', '--down', true), line('up', 'bytes_up_per_second', '--up')] }),
      graph({ title: 'Connections', window, format: count, floor: 4, series: [line('open', 'connections_active', '--accent', true), line('new/s', 'connections_per_second', '--other')] }),
      graph({ title: 'Latency, p99', window, format: ms, floor: 1, series: [line('first byte', 'first_byte_p99_ms', '--accent', true), line('connect', 'connect_p99_ms', '--other')] }),
      graph({ title: 'Trouble', window, format: rate, floor: 1, series: [line('failed', 'failed_per_second', '--bad', true), line('refused', 'rejected_per_second', '--warn')] })),
    h('div', { class: 'columns', key: 'columns' }, waiting(), shards(status)),
    failures(app),
    h('div', { class: 'columns', key: 'columns-2' }, listeners(status), news(memory.events)),
    memory.top ? h('div', { class: 'columns', key: 'columns-3' }, top('Most traffic, by destination', memory.top.top_destinations, 'destination', 'destination'), top('Most traffic, by user', memory.top.top_users, 'user', 'user', h('a', { href: '#/users' }, 'All users'))) : null,
  ];
}

const split = (value) => {
  const [number, unit] = bytesOf(value);
  return [number, `${unit}/s`];
};
const splitMs = (value) => ms(value).split(' ');

function tile(name, value, unit, note, tone) {
  return h('div', { class: `tile ${tone ?? ''}`, key: name }, h('span', { class: 'tile-name' }, name), h('span', { class: 'tile-value num' }, value, h('small', null, ` ${unit ?? ''}`)), h('span', { class: 'tile-note num' }, note));
}

function wrong(app) {
  const found = trouble(app);
  if (!found.length) {
    return h('section', { class: 'wrong calm', key: 'wrong', 'aria-label': 'What is wrong now' }, h('span', { class: 'dot good', 'aria-hidden': 'true' }), h('b', null, 'Nothing is wrong. '), h('span', { class: 'muted' }, 'All backends are up, nothing fails, no shard is busy.'));
  }
  return h('section', { class: `wrong ${found[0].level}`, key: 'wrong', 'aria-label': 'What is wrong now' },
    h('h2', null, `${found.length} ${found.length === 1 ? 'thing needs' : 'things need'} a look`),
    h('ul', null, found.map((each) => h('li', { key: each.what },
      h('span', { class: `dot ${each.level === 'error' ? 'bad' : 'warn'}`, 'aria-hidden': 'true' }),
      h('span', { class: 'wrong-text' }, h('a', { href: each.link }, each.what), ' ', h('span', { class: 'muted' }, each.why)),
      h('span', { class: 'wrong-since num' }, each.since ? h('time', { datetime: each.since.toISOString(), title: each.since.toISOString() }, `since ${clock(each.since)}`, h('span', { class: 'muted' }, ` · ${ago(each.since)}`)) : '')))));
}

const WHO = [
  ['us', 'arus', 'bad'], ['backend', 'backends', 'serious'], ['client', 'clients', 'warn'], ['ok', 'nobody: bytes move', 'good'], ['idle', 'nobody: idle', 'plain'],
];

/** Who is waited for, over sessions of every age. */
function waiting() {
  const { verdicts } = memory;
  const judged = verdicts?.data?.length ?? 0;
  if (!judged) return panel('Who is waited for', {}, h('p', { class: 'empty' }, verdicts ? 'No live session.' : 'Not known.'));
  const slow = verdicts.data.filter(({ verdict }) => ['us', 'backend', 'client'].includes(verdict.who));
  const order = ['us', 'backend', 'client'];
  slow.sort((a, b) => order.indexOf(a.verdict.who) - order.indexOf(b.verdict.who));
  return panel('Who is waited for', { aside: h('span', { class: 'muted' }, verdicts.live > judged ? `${judged} of ${exact(verdicts.live)} sessions, of every age` : `${judged} live sessions`) },
    h('div', { class: 'stack', role: 'img', 'aria-label': WHO.map(([who, name]) => `${name} ${verdicts.counts[who] ?? 0}`).join(', ') },
      WHO.filter(([who]) => verdicts.counts[who]).map(([who, , tone]) => h('span', { key: who, class: `stack-part ${tone}`, style: { 'flex-grow': String(verdicts.counts[who]) } }))),
    h('ul', { class: 'stack-legend' }, WHO.map(([who, name, tone]) => h('li', { key: who, class: verdicts.counts[who] ? undefined : 'zero' }, h('span', { class: `swatch ${tone}`, 'aria-hidden': 'true' }), h('span', null, name), h('b', { class: 'num' }, exact(verdicts.counts[who] ?? 0))))),
    slow.length ? h('ul', { class: 'brief' }, slow.slice(0, 5).map((each) => h('li', { key: each.id }, badge(each.verdict.who === 'us' ? 'arus' : each.verdict.who, toneOf(each.verdict.who)), h('a', { href: `#/sessions?id=${each.id}` }, each.listener, ' → ', each.backend ?? '–'), h('span', { class: 'muted' }, each.verdict.why)))) : null);
}

function shards(status) {
  return panel('Shards', { aside: h('a', { href: '#/shards' }, 'All about them') },
    h('ul', { class: 'bars' }, status.shards.slice(0, 16).map((shard) => h('li', { key: shard.id },
      h('span', { class: 'bar-name' }, `shard ${shard.id}`),
      shard.stuck ? meter(1, 'stuck', 'bad') : meter(shard.busy_share, percent(shard.busy_share)),
      h('span', { class: 'num muted' }, `${exact(shard.active)} open`),
      h('span', { class: 'num muted' }, perSecond(shard.flow?.bytes_down_per_second ?? shard.bytes_down_per_second))))),
    status.shards.length > 16 && h('p', { class: 'note' }, `and ${status.shards.length - 16} more`));
}

function failures(app) {
  const sessions = [...(memory.failed?.data ?? []), ...(memory.rejected?.data ?? [])];
  const groups = alike(sessions);
  const all = app.status.shards.length;
  return panel('Failures of the last 15 minutes', { className: 'flush', aside: h('a', { href: '#/sessions?state=failed' }, 'Every one') },
    table({
      label: 'Failures, put together by what they have in common', rows: groups.slice(0, 8), rowKey: (group) => group.key,
      empty: memory.failed ? 'Nothing has failed.' : 'Not known.',
      onrow: ({ session }) => app.go('sessions', { state: session.state, listener: session.listener }),
      columns: [
        { name: 'count', title: 'Count', num: true, cell: (group) => h('b', null, exact(group.count)) },
        { name: 'blame', title: 'Blame', cell: ({ session }) => (session.state === 'rejected' ? badge('refused', 'warn') : badge(BLAMED[session.blame] ?? session.blame ?? '–', session.blame === 'client' ? 'warn' : 'bad')) },
        { name: 'reason', title: 'Reason', cell: ({ session }) => words(session.reason) },
        { name: 'stage', title: 'Stage', minor: true, cell: ({ session }) => words(session.stage) },
        { name: 'where', title: 'Where', wide: true, lead: true, cell: ({ session }) => h('span', { class: 'mono' }, session.backend ? `${session.upstream ?? ''} ${session.backend}` : session.listener) },
        { name: 'sources', title: 'Sources', num: true, minor: true, cell: (group) => group.sources.size },
        { name: 'shards', title: 'Shards', minor: true, cell: (group) => (group.shards.size === all && all > 1 ? 'all' : [...group.shards].sort((a, b) => a - b).join(', ')) },
        { name: 'first', title: 'Since', cell: (group) => time(group.first) },
        { name: 'last', title: 'Last', num: true, cell: (group) => h('time', { datetime: group.last, title: group.last }, ago(group.last)) },
      ],
    }));
}

function listeners(status) {
  return panel('Listeners', { className: 'flush' }, table({
    label: 'Listeners', rows: status.listeners, rowKey: (listener) => listener.name, empty: 'No listener is configured.',
    columns: [
      { name: 'name', title: 'Name', lead: true, cell: (listener) => h('a', { href: `#/sessions?listener=${encodeURIComponent(listener.name)}` }, listener.name) },
      { name: 'addresses', title: 'Address', wide: true, cell: (listener) => h('span', { class: 'mono' }, listener.addresses.slice(0, 2).join(' '), listener.addresses.length > 2 ? ` +${listener.addresses.length - 2}` : '') },
      { name: 'open', title: 'Open', num: true, cell: (listener) => exact(listener.connections.used) },
      { name: 'new', title: 'New', num: true, minor: true, cell: (listener) => rate(listener.accepted_per_second) },
      { name: 'down', title: 'Down', num: true, cell: (listener) => perSecond(listener.bytes_down_per_second) },
    ],
  }));
}

function top(title, all, name, filter, more) {
  const rows = (all ?? []).filter((row) => row[name]).slice(0, 8);
  return panel(title, { className: 'flush', aside: [h('span', { class: 'muted' }, `the last ${TOP_HOURS} hours`), more] }, table({
    label: title, rows, rowKey: (row) => row[name], empty: name === 'user' ? 'No session had a user.' : 'None so far.',
    columns: [
      { name: 'name', title: name === 'user' ? 'User' : 'Destination', lead: true, wide: true, cell: (row) => h('a', { href: `#/sessions?state=closed&${filter}=${encodeURIComponent(row[name])}` }, row[name]) },
      { name: 'sessions', title: 'Sessions', num: true, cell: (row) => exact(row.sessions) },
      { name: 'up', title: 'Up', num: true, cell: (row) => bytes(row.bytes_up) },
      { name: 'down', title: 'Down', num: true, cell: (row) => bytes(row.bytes_down) },
    ],
  }));
}

function news(events) {
  return panel('Latest events', { aside: h('a', { href: '#/events' }, 'All events') },
    events.length ? h('ul', { class: 'brief' }, events.slice(0, 6).map((event, index) => h('li', { key: `${event.time}-${index}` }, state(event.severity), h('span', null, event.message), h('span', { class: 'muted num' }, clock(event.time))))) : h('p', { class: 'empty' }, 'Nothing has happened yet.'));
}
