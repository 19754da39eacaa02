// Users of SOCKS listeners: who uses how much of what they may, now and in the last day.

import { get } from '../api.js';
import { h } from '../dom.js';
import { bytes, exact, percent, perSecond, roughly } from '../format.js';
import { badge, meter, panel, table } from '../parts.js';

export const title = 'Users';
export const every = 3000;

const HOURS = 24;
/** Sums over a day are asked for less often. */
const RARELY_MS = 60_000;
const memory = { day: null, asked: 0, then: null };

export async function load() {
  const asks = [get('users', { limit: 200 })];
  if (Date.now() - memory.asked > RARELY_MS) {
    asks.push(get('sessions/stats', { window_hours: HOURS }).then((day) => { memory.day = day; memory.asked = Date.now(); }).catch((error) => { if (error.code === 401 || error.code === 0) throw error; }));
  }
  const [now] = await Promise.all(asks);
  const { then } = memory;
  const at = Date.now();
  // How fast they go is what has come since the last time.
  const rates = new Map(now.data.map((user) => {
    const was = then?.users.get(user.user);
    return [user.user, was && at > then.at ? rate(user, was, (at - then.at) / 1000) : null];
  }));
  memory.then = { at, users: new Map(now.data.map((user) => [user.user, user])) };
  return { now, rates, day: memory.day };
}

const rate = (user, was, seconds) => ({ up: Math.max(0, user.bytes_up - was.bytes_up) / seconds, down: Math.max(0, user.bytes_down - was.bytes_down) / seconds });

export function view(app, { now, rates, day }) {
  return [
    panel('Now', { className: 'flush', key: 'now', aside: h('span', { class: 'muted num' }, now.total > now.data.length ? `the busiest ${exact(now.data.length)} of ${exact(now.total)}` : `${exact(now.total)} known`) }, table({
      label: 'Users that are known now', rows: now.data, rowKey: (user) => user.user,
      empty: 'Nobody has logged in within the last minute. Users are known where a SOCKS listener asks for a login.',
      columns: [
        { name: 'user', title: 'User', lead: true, wide: true, cell: (user) => link('active', user.user) },
        { name: 'connections', title: 'Connections', num: true, cell: ({ connections: { used, limit } }) => (limit ? meter(used / limit, `${exact(used)} / ${exact(limit)}`) : exact(used)) },
        { name: 'up', title: 'Up', num: true, cell: (user) => perSecond(rates.get(user.user)?.up) },
        { name: 'down', title: 'Down', num: true, cell: (user) => perSecond(rates.get(user.user)?.down) },
        { name: 'max', title: 'Of its rate', cell: (user) => ofRate(user, rates.get(user.user)) },
        { name: 'guaranteed', title: 'Guaranteed', num: true, minor: true, cell: (user) => (user.guaranteed_bytes_per_second ? perSecond(user.guaranteed_bytes_per_second) : null) },
        { name: 'quota', title: 'Of its quota', cell: ({ quota }) => (quota ? meter(quota.used / quota.bytes, `${bytes(quota.used)} / ${bytes(quota.bytes)}`) : null) },
        { name: 'until', title: 'Renewed', num: true, cell: ({ quota }) => (quota ? h('time', { datetime: quota.until, title: quota.until }, quota.used >= quota.bytes ? badge('used up', 'bad') : null, ` in ${roughly((new Date(quota.until) - Date.now()) / 1000)}`) : null) },
      ],
    })),
    panel('Most traffic', { className: 'flush', key: 'day', aside: h('span', { class: 'muted' }, `the last ${HOURS} hours`) }, table({
      label: 'Users with the most traffic', rows: (day?.top_users ?? []).filter((user) => user.user), rowKey: (user) => user.user, empty: day ? 'No session had a user.' : 'Not known.',
      columns: [
        { name: 'user', title: 'User', lead: true, wide: true, cell: (user) => link('closed', user.user) },
        { name: 'sessions', title: 'Sessions', num: true, cell: (user) => exact(user.sessions) },
        { name: 'up', title: 'Up', num: true, cell: (user) => bytes(user.bytes_up) },
        { name: 'down', title: 'Down', num: true, cell: (user) => bytes(user.bytes_down) },
        { name: 'share', title: 'Of all traffic', cell: (user) => share(user, day.totals) },
      ],
    })),
  ];
}

const link = (state, user) => h('a', { href: `#/sessions?state=${state}&user=${encodeURIComponent(user)}` }, user);

function ofRate(user, now) {
  const most = user.max_bytes_per_second;
  if (!most) return h('span', { class: 'muted' }, 'no limit');
  return meter(now ? (now.up + now.down) / most : 0, `${now ? `${percent(Math.min(1, (now.up + now.down) / most))} ` : ''}of ${perSecond(most)}`);
}

function share(user, totals) {
  const part = (user.bytes_up + user.bytes_down) / (totals.bytes_up + totals.bytes_down || 1);
  return meter(part, percent(part), 'accent');
}
