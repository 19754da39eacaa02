// What is wrong now, where, and since when: judged from what arus says of itself. Pure, so that it can be read alone.

import { bytes, count, many, ms, percent, rate, words } from './format.js';

const BUSY = 0.9;
/** Failures by clients that are worth a word: so many, and this part of the sessions of a minute. */
const FEW = 10;
const CLIENTS = 0.05;
/** Part of the sessions of a minute that others may fail before it is grave. */
const GRAVE = 0.01;
const CERTIFICATE_DAYS = 14;
const DAY_MS = 86_400_000;

/** facts: { status, before (a status of about a minute ago, or null), events, history }. Gravest first. Each finding:
 *  { level: 'error' | 'warning', what, why, since (a Date or null), link }. */
export function findings({ status, before, events, history }) {
  if (!status) return [];
  const found = [];
  const add = (level, what, why, link, since = null) => found.push({ level, what, why, link, since });

  if (status.draining) add('warning', 'arus is draining', 'it accepts nothing new, and ends with its last session', '#/events', lastEvent(events, 'drain'));

  for (const upstream of status.upstreams ?? []) {
    const out = upstream.backends.filter((backend) => backend.state !== 'up');
    const hasNone = out.length === upstream.backends.length && out.length > 0;
    if (hasNone && out.length > 1) {
      add('error', `${upstream.name} has no backend left`, `all ${out.length} are ${[...new Set(out.map((backend) => backend.state))].join(' or ')}`, `#/upstreams`, null);
    }
    for (const backend of out) {
      const grave = hasNone || backend.state === 'down';
      const since = backend.since ? new Date(backend.since) : lastEvent(events, backend.address);
      const check = backend.last_check?.error;
      add(grave ? 'error' : 'warning', `backend ${backend.address} is ${backend.state}`, `upstream ${upstream.name}${check ? `: ${check}` : ''}`, '#/upstreams', since);
    }
    if (upstream.waiting > 0) add('warning', `${many(upstream.waiting, 'connection')} ${upstream.waiting === 1 ? 'waits' : 'wait'} for ${upstream.name}`, 'its backends are full', '#/upstreams');
  }

  const begun = before ? Math.max(1, status.totals.accepted - before.totals.accepted) : 1;
  for (const [blame, stages] of grown(status, before)) {
    const total = [...stages.values()].reduce((sum, n) => sum + n, 0);
    // Some clients always go without a word.
    if (blame === 'client' && (total < FEW || total / begun < CLIENTS)) continue;
    const where = [...stages].sort((a, b) => b[1] - a[1]).map(([stage, n]) => `${words(stage)} ${count(n)}`).join(', ');
    const since = steadySince(history?.failed_per_second);
    add(blame !== 'client' && total / begun >= GRAVE ? 'error' : 'warning', `${many(total, 'session')} failed, ${BLAMED[blame] ?? blame}`, `in the last minute, by stage: ${where}`, '#/sessions?state=failed', since);
  }
  const refused = rejected(status, before);
  if (refused.length) {
    const total = refused.reduce((sum, [, n]) => sum + n, 0);
    add('warning', `${many(total, 'connection')} refused`, `in the last minute: ${refused.map(([reason, n]) => `${words(reason)} ${count(n)}`).join(', ')}`, '#/sessions?state=rejected', steadySince(history?.rejected_per_second));
  }

  const shards = status.shards ?? [];
  const busiest = [...shards].sort((a, b) => b.busy_share - a.busy_share)[0];
  const rest = shards.filter((shard) => shard !== busiest);
  const mean = rest.reduce((sum, shard) => sum + shard.busy_share, 0) / (rest.length || 1);
  if (busiest?.busy_share >= BUSY && mean >= BUSY) {
    add('error', `all ${shards.length} shards are busy`, `${percent(busiest.busy_share)} of the time: arus is what is slow`, '#/shards');
  } else if (busiest?.busy_share >= BUSY) {
    add('error', `shard ${busiest.id} is busy ${percent(busiest.busy_share)} of the time`, `the others ${percent(mean)}: what goes through it waits`, '#/shards');
  } else if (rest.length && busiest.busy_share > 0.5 && busiest.busy_share > 2.5 * mean) {
    add('warning', `load is uneven: shard ${busiest.id} at ${percent(busiest.busy_share)}`, `the others at ${percent(mean)}; a few large connections can do that`, '#/shards');
  }
  for (const shard of shards.filter(({ stuck }) => stuck)) {
    add('error', `shard ${shard.id} is stuck`, `${many(shard.active, 'connection')} on it stand still, as in a plugin that hangs; the others go on`, '#/events?category=plugin', lastEvent(events, `shard ${shard.id} is stuck`));
  }
  for (const shard of shards) {
    const was = before?.shards?.find((other) => other.id === shard.id);
    if (was && shard.enobufs - was.enobufs > 100) {
      add('warning', `shard ${shard.id} ran out of buffers`, `${count(shard.enobufs - was.enobufs)} times in the last minute: slow readers hold them`, '#/shards');
    }
    if (was && shard.panics > was.panics) add('error', `shard ${shard.id} lost a session to a fault of arus`, 'please report it; the log has the place', '#/events');
  }

  const limit = status.limits?.connections;
  if (limit?.limit && limit.used / limit.limit > 0.9) {
    add(limit.used >= limit.limit ? 'error' : 'warning', `${percent(limit.used / limit.limit)} of max_connections in use`, `${count(limit.used)} of ${count(limit.limit)}`, '#/configuration');
  }
  for (const listener of status.listeners ?? []) {
    const { used, limit: most } = listener.connections;
    if (most && used / most > 0.9) add('warning', `listener ${listener.name} is at ${percent(used / most)} of its connections`, `${count(used)} of ${count(most)}`, '#/sessions');
    for (const certificate of listener.certificates ?? []) {
      const left = (new Date(certificate.not_after) - Date.now()) / DAY_MS;
      const name = certificate.names?.[0] ?? certificate.subject;
      if (certificate.pending_error) add('error', `the changed certificate for ${name} cannot be used`, certificate.pending_error, '#/configuration');
      if (left < 0) add('error', `the certificate for ${name} has expired`, `listener ${listener.name}`, '#/configuration', new Date(certificate.not_after));
      else if (left < CERTIFICATE_DAYS && Date.parse(certificate.not_after) - Date.parse(certificate.not_before) > 30 * DAY_MS) {
        add('warning', `the certificate for ${name} expires in ${Math.floor(left)} days`, `listener ${listener.name}`, '#/configuration');
      }
    }
  }
  for (const plugin of status.plugins ?? []) {
    const was = before?.plugins?.find((other) => other.name === plugin.name);
    if (plugin.disabled) add('error', `plugin ${plugin.name} is disabled`, 'a fault has put it out of use until the next reload', '#/plugins');
    else if (was && plugin.faults > was.faults) add('error', `plugin ${plugin.name} fails`, `${many(plugin.faults - was.faults, 'fault')} in the last minute`, '#/plugins');
  }
  const totals = status.totals ?? {};
  for (const [name, what] of UNWRITTEN) {
    if (before && totals[name] > (before.totals?.[name] ?? 0)) add('warning', `${count(totals[name] - before.totals[name])} ${what}`, 'in the last minute: is the disk full or slow?', '#/events');
  }
  const risen = rise(history?.first_byte_p99_ms);
  if (risen) add('warning', `backends answer slowly: first byte p99 is ${ms(risen.now)}`, `${ms(risen.usual)} was usual`, '#/upstreams', risen.since);
  const order = { error: 0, warning: 1 };
  return found.sort((a, b) => order[a.level] - order[b.level]);
}

export const BLAMED = { upstream: 'by the backend', client: 'by the client', proxy: 'by arus', policy: 'by policy' };
const UNWRITTEN = [
  ['summaries_dropped', 'finished sessions were not recorded'],
  ['access_lines_unwritten', 'lines of the access log were not written'],
];

/** Failures since `before`, by blame and then stage. */
export function grown(status, before) {
  const blames = new Map();
  if (!before) return blames;
  for (const listener of status.listeners ?? []) {
    const was = before.listeners?.find((other) => other.name === listener.name);
    for (const failed of listener.failed ?? []) {
      const then = was?.failed?.find((other) => other.stage === failed.stage && other.blame === failed.blame)?.count ?? 0;
      // A session that an operator cut is nothing wrong.
      if (failed.count <= then || failed.blame === 'policy') continue;
      const stages = blames.get(failed.blame) ?? new Map();
      stages.set(failed.stage, (stages.get(failed.stage) ?? 0) + failed.count - then);
      blames.set(failed.blame, stages);
    }
  }
  return blames;
}

function rejected(status, before) {
  const reasons = new Map();
  if (!before) return [];
  for (const listener of status.listeners ?? []) {
    const was = before.listeners?.find((other) => other.name === listener.name);
    for (const [reason, n] of Object.entries(listener.rejected ?? {})) {
      const more = n - (was?.rejected?.[reason] ?? 0);
      if (more > 0) reasons.set(reason, (reasons.get(reason) ?? 0) + more);
    }
  }
  return [...reasons].sort((a, b) => b[1] - a[1]);
}

/** The time of the newest event that speaks of `word`. */
export function lastEvent(events, word) {
  const event = (events ?? []).find((each) => `${each.message} ${JSON.stringify(each.details ?? {})}`.includes(word));
  return event ? new Date(event.time) : null;
}

/** Since when a rate has not been zero for longer than half a minute. */
export function steadySince(points) {
  let since = null;
  let quiet = 0;
  for (let index = (points?.length ?? 0) - 1; index >= 0; index -= 1) {
    const { t, v } = points[index];
    if (v > 0) {
      since = t;
      quiet = t;
    } else if (since !== null && quiet - t > 30) break;
  }
  return since === null ? null : new Date(since * 1000);
}

/** Whether the last minute is far above what was usual before. */
export function rise(points) {
  const known = (points ?? []).filter((point) => Number.isFinite(point.v) && point.v > 0);
  if (known.length < 20) return null;
  const end = known.at(-1).t;
  const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];
  const recent = known.filter((point) => point.t > end - 60).map((point) => point.v);
  const usual = median(known.filter((point) => point.t <= end - 60).map((point) => point.v));
  const now = median(recent);
  if (!(now > 100 && now > 4 * usual)) return null;
  const first = known.findLast((point) => point.v < 2 * usual);
  return { now, usual, since: first ? new Date(first.t * 1000) : null };
}

/** Failed and refused sessions, put together by what they have in common; the most frequent first. */
export function alike(sessions) {
  const groups = new Map();
  for (const session of sessions) {
    const key = [session.state, session.blame, session.stage, session.reason, session.backend ?? session.listener].join('|');
    const group = groups.get(key) ?? { key, session, count: 0, first: session.start, last: session.start, shards: new Set(), listeners: new Set(), sources: new Set() };
    group.count += 1;
    if (session.start < group.first) group.first = session.start;
    if (session.start > group.last) group.last = session.start;
    group.shards.add(session.shard);
    group.listeners.add(session.listener);
    group.sources.add(String(session.source).replace(/:\d+$/, ''));
    groups.set(key, group);
  }
  return [...groups.values()].sort((a, b) => b.count - a.count);
}

export const summary = (status) => `${count(status.totals.active)} connections, ${rate(status.totals.accepted_per_second)} new, ${bytes(status.totals.bytes_down_per_second)}/s down`;
