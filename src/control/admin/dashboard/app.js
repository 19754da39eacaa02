// The frame: who is logged in, which page is shown, how often it asks, and what happens when arus does not answer.

import { ApiError, get, post, setCsrf } from './api.js';
import { repaint } from './chart.js';
import { notice, showKeys } from './dialogs.js';
import { h, patch } from './dom.js';
import { clock, roughly, span } from './format.js';
import { failure, loading } from './parts.js';
import * as acl from './pages/acl.js';
import * as configuration from './pages/configuration.js';
import * as events from './pages/events.js';
import * as login from './pages/login.js';
import * as overview from './pages/overview.js';
import * as plugins from './pages/plugins.js';
import * as sessions from './pages/sessions.js';
import * as shards from './pages/shards.js';
import * as upstreams from './pages/upstreams.js';
import * as users from './pages/users.js';

const PAGES = { overview, sessions, upstreams, shards, acl, plugins, events, configuration, users };
const STALE_MS = 6000;

const app = {
  /** 'asking' | 'login' | 'in' */
  state: 'asking',
  me: null,
  page: 'overview',
  /** Query of the page, as in #/sessions?state=failed */
  params: {},
  /** What a page keeps while it is not shown. */
  memory: {},
  data: null,
  error: null,
  status: null,
  /** Statuses of the last minutes, for what has grown. */
  past: [],
  /** What was seen of some metrics since the page was opened, for an arus that keeps no history. */
  seen: {},
  /** When arus last answered. */
  answered: Date.now(),
  paused: false,
  render,
  refresh,
  go,
  canWrite: () => app.me?.scope !== 'read',
  /** The status of about a minute ago. */
  before: () => app.past.find((entry) => Date.now() - entry.at <= 62_000)?.status ?? null,
};

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
  const next = path in PAGES ? path : 'overview';
  const isOther = next !== app.page;
  app.page = next;
  app.params = Object.fromEntries(new URLSearchParams(query ?? ''));
  if (isOther) {
    app.data = null;
    app.error = null;
    document.getElementById('main')?.scrollTo?.(0, 0);
    window.scrollTo(0, 0);
  }
  document.title = `${PAGES[next].title} · arus`;
  if (app.state === 'in') refresh();
}

/** Changes the query of the page, or the page. */
function go(page, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== '' && value !== undefined && value !== null)).toString();
  const hash = `#/${page}${query ? `?${query}` : ''}`;
  if (location.hash === hash) refresh();
  else location.hash = hash;
}

let round = 0;
let timer = 0;

/** Asks for everything the page shows, shows it, and comes back after the page's pause. */
async function refresh() {
  clearTimeout(timer);
  const mine = (round += 1);
  const page = PAGES[app.page];
  render();
  try {
    const [status, data] = await Promise.all([get('status'), page.load(app)]);
    if (mine !== round) return;
    app.status = status;
    app.past.push({ at: Date.now(), status });
    while (app.past.length > 1 && Date.now() - app.past[0].at > 75_000) app.past.shift();
    see(status);
    app.data = data;
    app.error = null;
    app.answered = Date.now();
  } catch (error) {
    if (mine !== round) return;
    if (error instanceof ApiError && error.code === 401) return enter(null);
    if (!(error instanceof ApiError)) console.error(error);
    // What is there stays, and is said to be old; an error that arus itself gives is shown in the page's place.
    app.error = error;
    if (error.code > 0) {
      app.answered = Date.now();
    }
  }
  render();
  if (!app.paused) timer = setTimeout(refresh, document.hidden ? 15_000 : page.every);
}

/** More than a page is open for. */
const SEEN = 3600;

function see(status) {
  const { totals } = status;
  const now = Date.now() / 1000;
  const last = app.past.at(-2);
  const since = last ? (Date.now() - last.at) / 1000 : 0;
  const rate = (name) => (since > 0 ? Math.max(0, totals[name] - last.status.totals[name]) / since : undefined);
  const values = {
    connections_active: totals.active, connections_per_second: totals.accepted_per_second,
    bytes_up_per_second: totals.bytes_up_per_second, bytes_down_per_second: totals.bytes_down_per_second,
    failed_per_second: rate('failed'), rejected_per_second: rate('rejected'),
  };
  for (const stage of ['connect', 'first_byte']) {
    const known = status.shards.map((shard) => shard.latency?.[stage]).filter((latency) => latency?.count);
    if (known.length) values[`${stage}_p99_ms`] = Math.max(...known.map((latency) => latency.p99)) / 1000;
  }
  for (const shard of status.shards) values[`shard_busy ${shard.id}`] = shard.busy_share;
  for (const [metric, v] of Object.entries(values)) {
    const points = (app.seen[metric] ??= []);
    points.push({ t: now, v });
    if (points.length > SEEN) points.shift();
  }
}

function enter(me) {
  app.me = me;
  app.state = me ? 'in' : 'login';
  clearTimeout(timer);
  round += 1;
  if (me) {
    setCsrf(me.csrf);
    route();
  } else {
    app.data = null;
    app.status = null;
    app.past = [];
    render();
  }
}

async function leave() {
  await post('logout').catch(() => null);
  enter(null);
}

async function start() {
  route();
  render();
  try {
    enter(await get('me'));
  } catch (error) {
    if (error.code === 401) return enter(null);
    app.error = error;
    render();
    setTimeout(start, 3000);
  }
}

function theme() {
  const root = document.documentElement;
  const order = ['auto', 'light', 'dark'];
  const next = order[(order.indexOf(root.dataset.theme ?? 'auto') + 1) % 3];
  if (next === 'auto') delete root.dataset.theme;
  else root.dataset.theme = next;
  try {
    if (next === 'auto') localStorage.removeItem('arus.theme');
    else localStorage.setItem('arus.theme', next);
  } catch { /* it holds until the page is left */ }
  render();
  repaint();
}

function pause() {
  app.paused = !app.paused;
  if (app.paused) {
    clearTimeout(timer);
    render();
  } else refresh();
}

const KEYS = [
  ['1 – 9', 'the pages, in their order'],
  ['/', 'to the filter of this page'],
  ['r', 'ask again now'],
  ['p', 'stop asking, and go on'],
  ['t', 'light, dark, or as the system'],
  ['Enter', 'open the row that has the focus'],
  ['Esc', 'close what is open'],
  ['?', 'this list'],
];

document.addEventListener('keydown', (event) => {
  if (app.state !== 'in' || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches('input:not([type=radio]), select, textarea') || document.querySelector('dialog[open]')) return;
  const names = Object.keys(PAGES);
  if (event.key >= '1' && event.key <= String(names.length)) go(names[event.key - 1]);
  else if (event.key === '?') showKeys(KEYS);
  else if (event.key === 'r') refresh();
  else if (event.key === 'p') pause();
  else if (event.key === 't') theme();
  else if (event.key === '/') document.querySelector('[data-filter]')?.focus();
  else return;
  event.preventDefault();
});
window.addEventListener('hashchange', route);
document.addEventListener('visibilitychange', () => { if (!document.hidden && app.state === 'in' && !app.paused) refresh(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', repaint);
// The age of old data has to go on while nothing comes.
setInterval(() => { if (app.state === 'in' && Date.now() - app.answered > STALE_MS) render(); }, 1000);

function render() {
  patch(document.getElementById('app'), app.state === 'login' ? [login.view({ app, enter, get })] : app.state === 'in' ? frame() : [h('main', { class: 'alone' }, app.error ? failure(app.error) : loading())]);
}

function frame() {
  const page = PAGES[app.page];
  const isStale = !app.paused && Date.now() - app.answered > STALE_MS;
  return [
    h('a', { class: 'skip', href: '#main', key: 'skip', onclick: (event) => { event.preventDefault(); document.getElementById('main').focus(); } }, 'Skip to content'),
    side(),
    h('main', { id: 'main', tabindex: '-1', key: `main-${app.page}`, class: isStale ? 'stale' : undefined },
      isStale && h('div', { class: 'banner bad', role: 'alert', key: 'stale' }, h('b', null, `arus has not answered for ${roughly((Date.now() - app.answered) / 1000)}. `), `What you see is from ${clock(app.answered)}.`),
      app.paused && h('div', { class: 'banner', key: 'paused' }, h('b', null, 'Paused. '), `What you see is from ${clock(app.answered)}. `, h('button', { type: 'button', class: 'link', onclick: pause }, 'Go on')),
      h('div', { class: 'title', key: 'title' }, h('h1', null, page.title), page.tools && app.data && h('div', { class: 'tools' }, page.tools(app, app.data))),
      app.error?.code > 0 && failure(app.error),
      app.data ? page.view(app, app.data) : !app.error && loading()),
  ];
}

function side() {
  const { status } = app;
  const chosen = document.documentElement.dataset.theme ?? 'auto';
  const trouble = status ? overview.trouble(app) : [];
  const marks = { overview: trouble.length, shards: status?.missing_shards?.length ?? 0, upstreams: (status?.upstreams ?? []).flatMap((upstream) => upstream.backends).filter((backend) => backend.state !== 'up').length, plugins: (status?.plugins ?? []).filter((plugin) => plugin.disabled).length };
  return h('header', { class: 'side', key: 'side' },
    h('div', { class: 'brand' },
      h('svg', { viewBox: '0 0 32 32', class: 'mark', 'aria-hidden': 'true' }, h('rect', { width: 32, height: 32, rx: 8 }), h('path', { d: 'M7 11h7c5 0 5 10 10 10h1M7 21h5M20 11h5' })),
      h('span', { class: 'brand-name' }, 'arus'),
      h('span', { class: 'brand-state' }, status ? (status.draining ? 'draining' : `up ${span(status.uptime_seconds)}`) : '')),
    h('nav', { 'aria-label': 'Pages' }, Object.entries(PAGES).map(([name, page], index) => h('a', { key: name, href: `#/${name}`, 'aria-current': name === app.page ? 'page' : undefined, 'aria-keyshortcuts': String(index + 1), ref: (node) => { node.dataset.page = name; }, update: (node) => reveal(node, name) },
      page.short ?? page.title, marks[name] ? h('span', { class: 'mark-count', 'aria-label': `${marks[name]} to look at` }, String(marks[name])) : null))),
    h('div', { class: 'foot' },
      h('div', { class: 'foot-tools' },
        h('button', { type: 'button', class: 'tool', onclick: pause, 'aria-pressed': String(app.paused), title: 'p' }, app.paused ? 'Go on' : 'Pause'),
        h('button', { type: 'button', class: 'tool', onclick: theme, title: 'Theme (t)', 'aria-label': `Theme: ${chosen}` }, `◐ ${chosen}`),
        h('button', { type: 'button', class: 'tool keys-tool', onclick: () => showKeys(KEYS), title: '?', 'aria-label': 'Keyboard shortcuts' }, '?')),
      h('p', { class: 'who' }, `${app.me.user ?? 'token'}${app.canWrite() ? '' : ' (may only look)'} `, h('button', { type: 'button', class: 'link', onclick: leave }, 'Log out')),
      status && h('p', { class: 'version' }, `arus ${status.version} · generation ${status.generation}`)));
}

let revealed = null;
/** On a narrow window the pages are a strip: the chosen one is brought into sight. */
function reveal(node, name) {
  // Once more when there is a status: its marks make the names wider.
  const now = `${name} ${app.status !== null}`;
  if (name !== app.page || revealed === now) return;
  revealed = now;
  const strip = node.parentElement;
  if (strip.scrollWidth > strip.clientWidth) strip.scrollLeft = node.offsetLeft - strip.clientWidth / 2 + node.offsetWidth / 2;
}

window.addEventListener('unhandledrejection', (event) => {
  if (event.reason instanceof ApiError) {
    event.preventDefault();
    notice(event.reason.message, 'bad');
  }
});

start();
