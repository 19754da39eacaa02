// Shards: is one of them the slow one?

import { get } from '../api.js';
import { h } from '../dom.js';
import { bytes, count, exact, ms, percent, perSecond, rate } from '../format.js';
import { badge, choice, graph, meter, panel, table } from '../parts.js';

export const title = 'Shards';
export const every = 2000;

const WINDOWS = { '5m': 300, '15m': 900, '1h': 3600 };
/** More lines than this are a tangle. */
const LINES = 12;

export async function load(app) {
  const span = app.params.window in WINDOWS ? app.params.window : '15m';
  const answer = await get('shards');
  const shards = answer.data ?? answer;
  const busy = await Promise.all(shards.slice(0, LINES).map((shard) => get('history', { metric: 'shard_busy', shard: shard.id, window: span }).catch(() => null)));
  return { shards, busy: busy.map((history, index) => history?.samples ?? app.seen[`shard_busy ${shards[index].id}`] ?? []), span };
}

export const tools = (app, data) => choice({ label: 'Time shown', options: Object.keys(WINDOWS).map((word) => [word, word]), value: data.span, onchange: (window) => app.go('shards', { window }) });

export function view(app, { shards, busy, span }) {
  const mean = (of) => shards.reduce((sum, shard) => sum + of(shard), 0) / (shards.length || 1);
  const busyMean = mean((shard) => shard.busy_share);
  const uneven = Math.max(1, ...shards.map((shard) => shard.skew_index ?? 1));
  return [
    h('div', { class: 'tiles', key: 'tiles' },
      tile('Shards', exact(shards.length), `${percent(busyMean)} busy on average`),
      tile('Skew', uneven.toFixed(2), 'the fullest, to the average'),
      tile('Open', exact(shards.reduce((sum, shard) => sum + shard.active, 0)), `${exact(Math.max(0, ...shards.map((shard) => shard.active)))} on the fullest`),
      tile('Out of buffers', exact(shards.reduce((sum, shard) => sum + shard.enobufs, 0)), 'receives that found none'),
      tile('Lost to faults', exact(shards.reduce((sum, shard) => sum + shard.panics, 0)), 'sessions, so far')),
    panel('Busy', { key: 'busy' }, graph({
      title: 'Share of the time that each works', window: WINDOWS[span], format: (value) => percent(value), floor: 0.2, height: 170,
      series: shards.slice(0, LINES).map((shard, index) => ({ name: `shard ${shard.id}`, colour: `--shard-${index % 6}`, points: busy[index] ?? [] })),
      note: shards.length > LINES ? `The first ${LINES} of ${shards.length}.` : null,
    })),
    panel('All shards', { className: 'flush', key: 'all' }, table({
      label: 'Shards', rows: shards, rowKey: (shard) => shard.id,
      columns: [
        { name: 'id', title: 'Shard', num: true, cell: (shard) => [shard.stuck ? badge('stuck', 'bad') : null, ' ', h('b', null, String(shard.id))] },
        { name: 'cpu', title: 'CPU', num: true, minor: true, cell: (shard) => (shard.cpu === null ? null : String(shard.cpu)) },
        { name: 'busy', title: 'Busy', cell: (shard) => meter(shard.busy_share, percent(shard.busy_share)) },
        { name: 'open', title: 'Open', num: true, cell: (shard) => exact(shard.active) },
        { name: 'new', title: 'New', num: true, cell: (shard) => rate(shard.accepted_per_second) },
        { name: 'up', title: 'Up', num: true, cell: (shard) => perSecond(shard.bytes_up_per_second) },
        { name: 'down', title: 'Down', num: true, cell: (shard) => perSecond(shard.bytes_down_per_second) },
        { name: 'first', title: 'First byte p99', num: true, cell: (shard) => latency(shard) },
        { name: 'buffers', title: 'Buffers in use', cell: ({ buffers }) => meter((buffers.total - buffers.free) / (buffers.total || 1), `${exact(buffers.total - buffers.free)} / ${exact(buffers.total)}`, 'accent') },
        { name: 'mark', title: 'Most', num: true, minor: true, cell: ({ buffers }) => exact(buffers.watermark) },
        { name: 'depth', title: 'In flight', num: true, minor: true, cell: (shard) => exact(shard.operations) },
        { name: 'enobufs', title: 'No buffer', num: true, minor: true, cell: (shard) => count(shard.enobufs) },
      ],
    })),
    h('p', { class: 'note', key: 'so-far' }, `Since the start they have moved ${bytes(shards.reduce((sum, shard) => sum + shard.bytes_up, 0))} up and ${bytes(shards.reduce((sum, shard) => sum + shard.bytes_down, 0))} down.`),
  ];
}

const latency = (shard) => {
  const p99 = shard.latency?.first_byte?.p99;
  return p99 === undefined || shard.latency.first_byte.count === 0 ? null : ms(p99 / 1000);
};
const tile = (name, value, note) => h('div', { class: 'tile', key: name }, h('span', { class: 'tile-name' }, name), h('span', { class: 'tile-value num' }, value), h('span', { class: 'tile-note' }, note));
