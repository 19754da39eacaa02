// Every session: live, finished, failed, refused. One of them in full beside the list, with who keeps it waiting.

import { del, get } from '../api.js';
import { confirm, notice } from '../dialogs.js';
import { h } from '../dom.js';
import { BLAMED } from '../findings.js';
import { DASH, bytes, exact, ms, percent, perSecond, roughly, span, words } from '../format.js';
import { badge, choice, facts, field, mono, panel, state, table, time, toneOf } from '../parts.js';

export const title = 'Sessions';
export const every = 3000;

const STATES = [['active', 'Live'], ['closed', 'Closed'], ['failed', 'Failed'], ['rejected', 'Refused']];
const SINCE = [['', 'any time'], ['5m', '5 minutes'], ['1h', '1 hour'], ['24h', '24 hours'], ['7d', '7 days']];
const SECONDS = { '5m': 300, '1h': 3600, '24h': 86_400, '7d': 604_800 };
const FILTERS = ['source', 'user', 'destination'];
const PAGE = 50;

export async function load(app) {
  const { params } = app;
  const query = {
    state: params.state || 'active', listener: params.listener, user: params.user, source: params.source, destination: params.destination,
    since: params.since in SECONDS ? new Date(Date.now() - SECONDS[params.since] * 1000).toISOString() : '',
    sort: params.sort, order: params.order, page: params.page || 1, page_size: PAGE,
  };
  const [page, one] = await Promise.all([
    // A filter that means nothing is told of beside the filters.
    get('sessions', query).catch((error) => { if (error.code !== 400) throw error; return { data: [], total: 0, problem: error.message }; }),
    params.id ? get(`sessions/${encodeURIComponent(params.id)}`).catch((error) => { if (error.code === 401 || error.code === 0) throw error; return { gone: error.message }; }) : null,
  ]);
  const ids = query.state === 'active' ? page.data.map((session) => session.id) : [];
  const judged = ids.length ? await get('sessions/verdicts', { ids: ids.join() }).catch(() => null) : null;
  return { page, one, verdicts: new Map((judged?.data ?? []).map((each) => [each.id, each.verdict])) };
}

export function view(app, { page, one, verdicts }) {
  const { params } = app;
  const change = (changes) => app.go('sessions', { ...params, page: '', ...changes });
  const current = params.state || 'active';
  const isLive = current === 'active';
  const pages = Math.max(1, Math.ceil(page.total / PAGE));
  const at = Number(params.page || 1);
  const sort = params.sort || 'start';
  const order = params.order || 'desc';
  return [
    h('form', { class: 'filters', key: 'filters', role: 'search', 'aria-label': 'Filter', onsubmit: (event) => {
      event.preventDefault();
      change(Object.fromEntries(FILTERS.map((name) => [name, event.target.elements[name].value.trim()])));
    } },
      choice({ label: 'State', options: STATES, value: current, onchange: (word) => change({ state: word, sort: '', order: '' }) }),
      FILTERS.map((name, index) => field(words(name), h('input', { name, key: name, type: 'search', value: params[name] ?? '', autocomplete: 'off', spellcheck: 'false', 'data-filter': index === 0 ? '' : undefined, placeholder: HINTS[name], onchange: (event) => change({ [name]: event.target.value.trim() }) }))),
      field('Listener', h('select', { value: params.listener ?? '', onchange: (event) => change({ listener: event.target.value }) }, h('option', { value: '' }, 'every'), (app.status?.listeners ?? []).map((listener) => h('option', { value: listener.name, key: listener.name }, listener.name)))),
      field('Began in', h('select', { value: params.since ?? '', onchange: (event) => change({ since: event.target.value }) }, SINCE.map(([word, text]) => h('option', { value: word, key: text }, text)))),
      h('button', { type: 'submit', class: 'button quiet', key: 'apply' }, 'Apply')),
    page.problem ? h('p', { class: 'form-error', role: 'alert', key: 'problem' }, page.problem) : null,
    page.missing_shards?.length ? h('div', { class: 'banner warn', key: 'missing' }, h('b', null, `Shard ${page.missing_shards.join(', ')} did not answer. `), 'Its live sessions are missing here.') : null,
    panel(isLive ? 'Live sessions' : `${STATES.find(([word]) => word === current)[1]} sessions`, { key: 'list', className: 'flush', aside: h('span', { class: 'muted num' }, `${exact(page.total)} in all`) },
      table({
        label: 'Sessions', rows: page.data, rowKey: (session) => session.id, rowClass: (session) => (session.id === params.id ? 'chosen' : ''),
        empty: Object.entries(params).some(([name, value]) => value && name !== 'state' && name !== 'id') ? 'No session fits these filters.' : isLive ? 'Nobody is connected.' : 'None so far.',
        onrow: (session) => app.go('sessions', { ...params, id: session.id }),
        sort, order, onsort: (name) => change({ sort: name, order: name === sort && order === 'desc' ? 'asc' : 'desc' }),
        columns: columns(isLive, current, verdicts),
      }),
      pages > 1 && h('nav', { class: 'pager', 'aria-label': 'Pages of sessions' },
        h('button', { type: 'button', class: 'button quiet', disabled: at <= 1, onclick: () => change({ page: at - 1 }) }, '← Newer'),
        h('span', { class: 'num' }, `page ${exact(at)} of ${exact(pages)}`),
        h('button', { type: 'button', class: 'button quiet', disabled: at >= pages, onclick: () => change({ page: at + 1 }) }, 'Older →'))),
    params.id && one ? drawer(app, one) : null,
  ];
}

const HINTS = { source: '10.0.0.0/8', user: 'name', destination: 'host, host:port, network' };

const columns = (isLive, current, verdicts) => [
  { name: 'start', title: 'Began', sort: 'start', cell: (session) => time(session.start) },
  { name: 'listener', title: 'Listener', cell: (session) => session.listener },
  { name: 'source', title: 'Source', cell: (session) => mono(session.source) },
  { name: 'user', title: 'User', cell: (session) => clipped(session.user) },
  { name: 'target', title: 'To', lead: true, cell: (session) => destination(session) },
  { name: 'backend', title: 'Backend', minor: true, cell: (session) => (session.backend && session.backend !== session.target ? mono(session.backend) : null) },
  isLive && { name: 'waits', title: 'Waits for', cell: (session) => waitsFor(verdicts.get(session.id)) },
  isLive
    ? { name: 'stage', title: 'Stage', minor: true, cell: (session) => words(session.stage) }
    : { name: 'reason', title: 'Ended', cell: (session) => h('span', null, words(session.reason), current === 'failed' ? h('span', { class: 'muted' }, ` ${BLAMED[session.blame] ?? ''}`) : '') },
  { name: 'duration', title: isLive ? 'Age' : 'Lasted', sort: 'duration', num: true, cell: (session) => (session.duration_ms < 10_000 ? ms(session.duration_ms) : span(session.duration_ms / 1000)) },
  { name: 'up', title: 'Up', sort: 'bytes_up', num: true, cell: (session) => bytes(session.bytes_up) },
  { name: 'down', title: 'Down', sort: 'bytes_down', num: true, cell: (session) => bytes(session.bytes_down) },
  { name: 'first', title: 'First byte', num: true, minor: true, cell: (session) => (session.first_byte_ms === null ? null : ms(session.first_byte_ms)) },
  { name: 'shard', title: 'Shard', num: true, minor: true, cell: (session) => String(session.shard) },
].filter(Boolean);

/** Long names are cut in the list, and whole in the session. */
const clipped = (text, className) => (text ? h('span', { class: `clip ${className ?? ''}`, title: text }, text) : null);

/** Where it goes, as it was asked for. */
function destination(session) {
  if (session.protocol === 'udp') return h('span', null, badge('UDP'), ' ', clipped(session.target, 'mono'));
  const asked = session.target ?? session.sni;
  return asked ? clipped(asked, 'mono') : session.upstream ? clipped(session.upstream) : clipped(session.backend, 'mono');
}

function waitsFor(verdict) {
  if (!verdict) return null;
  const { who, why } = verdict;
  const isSlow = who === 'client' || who === 'backend' || who === 'us';
  return isSlow ? h('span', { class: `badge ${toneOf(who)}`, title: why }, who === 'us' ? 'arus' : who) : h('span', { class: 'muted', title: why }, who === 'idle' ? 'idle' : 'nobody');
}

/** One session in full. */
function drawer(app, session) {
  const close = () => {
    // Gives the focus back to the row.
    document.querySelector('dialog.drawer')?.close();
    app.go('sessions', { ...app.params, id: '' });
  };
  const body = session.gone ? [h('p', { class: 'empty' }, `It is not to be found any more: ${session.gone}`)] : full(app, session);
  return h('dialog', {
    class: 'drawer', key: 'drawer', 'aria-label': 'Session',
    ref: (node) => node.showModal(),
    oncancel: (event) => { event.preventDefault(); close(); },
    onclick: (event) => { if (event.target === event.currentTarget) close(); },
  }, h('div', { class: 'drawer-body' },
    h('header', { class: 'drawer-head' }, h('h2', null, 'Session'), session.state ? state(session.state) : null, h('span', { class: 'spacer' }),
      h('button', { type: 'button', class: 'tool', onclick: close, 'aria-label': 'Close' }, '✕')),
    body));
}

function full(app, session) {
  const isLive = session.state === 'active';
  return [
    verdict(session),
    session.tcp ? path(session) : null,
    session.association ? association(session) : null,
    stages(session),
    facts([
      ['Id', mono(session.id)],
      ['Source', mono(session.source)],
      ['Peer', session.peer && mono(session.peer)],
      ['User', session.user],
      ['Listener', `${session.listener} · ${session.service}${session.protocol === 'udp' ? ' · UDP' : ''}`],
      ['Server name', session.sni && mono(session.sni)],
      ['TLS', session.tls_version && `${session.tls_version}${session.tls_cipher ? ` · ${session.tls_cipher}` : ''}${session.alpn ? ` · ${session.alpn}` : ''}`],
      ['Target', session.target && mono(session.target)],
      ['Rule', session.acl_rule],
      ['Backend', session.backend && mono(`${session.upstream ? `${session.upstream} · ` : ''}${session.backend}`)],
      ['Began', time(session.start)],
      ['Ended', session.end && time(session.end)],
      ['Lasted', span(session.duration_ms / 1000)],
      ['Up', `${bytes(session.bytes_up)} (${exact(session.bytes_up)} B)`],
      ['Down', `${bytes(session.bytes_down)} (${exact(session.bytes_down)} B)`],
      ['Datagrams', session.protocol !== 'udp' || session.association ? null : `${exact(session.datagrams_up ?? 0)} up, ${exact(session.datagrams_down ?? 0)} down`],
      ['Shard', `${session.shard} · generation ${session.generation}`],
    ]),
    isLive && app.canWrite() ? h('div', { class: 'buttons', key: 'buttons' }, h('button', { type: 'button', class: 'button danger', onclick: () => kill(app, session) }, 'Kill this session')) : null,
  ];
}

/** An association has nobody who is slow: there is who sends what cannot pass, and who does not answer. */
const NAMES_UDP = { client: 'It is the client', backend: 'It is the target', us: 'It is arus', idle: 'Idle', ok: 'All is well' };
const NAMES = { client: 'The client is slow', backend: 'The backend is slow', us: 'It waits for arus', idle: 'Idle', ok: 'All is well' };

function verdict(session) {
  if (session.verdict) {
    const { who, why } = session.verdict;
    return h('div', { class: `verdict ${toneOf(who)}`, key: 'verdict' }, h('b', null, (session.association ? NAMES_UDP : NAMES)[who] ?? who), h('span', null, why));
  }
  if (!session.reason) return null;
  const tone = session.state === 'failed' ? (session.blame === 'client' ? 'warn' : 'bad') : session.state === 'rejected' ? 'warn' : 'plain';
  return h('div', { class: `verdict ${tone}`, key: 'verdict' }, h('b', null, words(session.reason)), h('span', null, session.state === 'closed' ? 'everything was delivered' : `in stage ${words(session.stage)}${BLAMED[session.blame] ? `, ${BLAMED[session.blame]}` : ''}`));
}

/** Client, arus, backend: where bytes wait. */
function path(session) {
  const { tcp, held, verdict: { who } = {} } = session;
  const node = (key, name, isGuilty, rows) => h('div', { class: `hop ${isGuilty ? `guilty ${toneOf(who)}` : ''}`, key }, h('h3', null, name), facts(rows));
  const side = (info) => (info
    ? [
      ['Round trip', ms(info.rtt_ms)],
      ['Waits for it', info.send_queue_bytes ? bytes(info.send_queue_bytes) : '0 B'],
      ['Its window full', percent(info.rwnd_limited_share)],
      ['Window', info.peer_window_bytes === null ? null : bytes(info.peer_window_bytes)],
      ['Resent', exact(info.retransmits)],
      ['Arrives at', perSecond(info.delivery_bytes_per_second)],
      ['Last heard', `${roughly(info.last_received_ms / 1000)} ago`],
      ['Unread here', bytes(info.unread_bytes)],
    ]
    : [['Connection', 'a unix socket, or not there yet']]);
  return h('div', { class: 'path', key: 'path' },
    node('client', 'Client', who === 'client', side(tcp.client)),
    node('arus', 'arus', who === 'us', [['Holds up', bytes(held?.up_bytes ?? 0)], ['Holds down', bytes(held?.down_bytes ?? 0)], ['Shard', String(session.shard)]]),
    node('upstream', 'Backend', who === 'backend', side(tcp.upstream)));
}

/** A UDP association: how many targets, what was passed on, what was dropped and why. */
function association({ association: seen }) {
  const last = (way) => (way === null || way === undefined ? 'never' : `${roughly(way / 1000)} ago`);
  const dropped = Object.entries(seen.dropped);
  return h('div', { class: 'path two', key: 'association' },
    h('div', { class: 'hop', key: 'passed' }, h('h3', null, 'Datagrams'), facts([
      ['Targets', exact(seen.targets)],
      ['Sent up', exact(seen.datagrams_up)], ['Last up', last(seen.last_up_ms)],
      ['Sent down', exact(seen.datagrams_down)], ['Last down', last(seen.last_down_ms)]])),
    h('div', { class: 'hop', key: 'dropped' }, h('h3', null, 'Dropped'), dropped.length ? facts(dropped.map(([why, count]) => [DROPS[why] ?? words(why), exact(count)])) : h('p', { class: 'muted' }, 'None.')));
}

const DROPS = {
  stranger: 'Not from the client', unasked: 'From where nothing was sent to', malformed: 'No proper SOCKS header', fragment: 'Fragments', denied: 'Blocked by the rules', unresolved: 'No address for the name',
  waiting: 'Too many wait for names', too_large: 'Too large', no_room: 'Queue of a socket full', rate: 'Over the rate', network: 'Refused by the network', resources: 'No socket to be had',
};

/** How long it took until something flowed. */
function stages(session) {
  const known = [['connect', session.connect_ms], ['first byte', session.first_byte_ms]].filter(([, value]) => value !== null && value !== undefined);
  if (!known.length) return null;
  const total = known.reduce((sum, [, value]) => sum + value, 0) || 1;
  return h('div', { class: 'stages', key: 'stages' },
    h('div', { class: 'stack', 'aria-hidden': 'true' }, known.map(([name, value], index) => h('span', { key: name, class: `stack-part ${index ? 'accent' : 'other'}`, style: { 'flex-grow': String(Math.max(value / total, 0.02)) } }))),
    h('ul', { class: 'stack-legend' }, known.map(([name, value], index) => h('li', { key: name }, h('span', { class: `swatch ${index ? 'accent' : 'other'}`, 'aria-hidden': 'true' }), name, h('b', { class: 'num' }, ms(value))))));
}

async function kill(app, session) {
  const isSure = await confirm({ title: 'Kill this session?', text: `${session.source} → ${session.target ?? session.backend ?? DASH}: both sides get a reset. It has moved ${bytes(session.bytes_up)} up and ${bytes(session.bytes_down)} down.`, act: 'Kill', grave: true });
  if (!isSure) return;
  try {
    await del(`sessions/${encodeURIComponent(session.id)}`);
    notice(`Killed the session of ${session.source}.`);
  } catch (error) {
    notice(`It could not be killed: ${error.message}`, 'bad');
  }
  app.refresh();
}

