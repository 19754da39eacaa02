// Access rules with their hits, and a box to try who may go where: the same code decides as for live traffic.

import { get, post } from '../api.js';
import { h } from '../dom.js';
import { exact } from '../format.js';
import { badge, field, mono, panel, state, table } from '../parts.js';

export const title = 'Access rules';
export const short = 'Access';
export const every = 4000;

const box = { answer: null, error: '', busy: false };

export async function load() {
  try {
    return { rules: await get('acl/rules') };
  } catch (error) {
    if (error.code === 404) return { rules: null };
    throw error;
  }
}

export function view(app, { rules }) {
  if (!rules) return h('p', { class: 'empty' }, 'No access rules are configured.');
  const list = rules.rules ?? [];
  const most = Math.max(1, ...list.map((rule) => rule.hits ?? 0));
  const hit = box.answer?.rule;
  return [
    tryIt(app),
    panel('Rules', { className: 'flush', aside: h('span', null, 'what no rule decides: ', state(rules.default)) }, table({
      label: 'Access rules', rows: list.map((rule, index) => ({ ...rule, index })), rowKey: (rule) => `${rule.rule}-${rule.index}`, rowClass: (rule) => (hit !== undefined && hit !== null && String(hit) === String(rule.rule) ? 'chosen' : ''),
      empty: `There is no rule: everything is ${rules.default === 'allow' ? 'allowed' : 'blocked'}.`,
      columns: [
        { name: 'rule', title: 'Rule', wide: true, lead: true, cell: (rule) => h('span', null, rule.description || String(rule.rule)) },
        { name: 'action', title: 'Action', cell: (rule) => state(rule.action) },
        { name: 'priority', title: 'Priority', num: true, cell: (rule) => exact(rule.priority ?? 0) },
        { name: 'who', title: 'Who', wide: true, cell: (rule) => lists(rule, ['users', 'groups', 'sources']) },
        { name: 'where', title: 'Where', wide: true, cell: (rule) => lists(rule, ['destinations', 'ports', 'protocols', 'listeners']) },
        { name: 'hits', title: 'Hits', num: true, cell: (rule) => h('span', { class: 'hits' }, h('span', { class: 'hits-bar', 'aria-hidden': 'true', style: { width: `${(48 * (rule.hits ?? 0)) / most}px` } }), exact(rule.hits ?? 0)) },
        { name: 'line', title: 'In the file', minor: true, cell: (rule) => (rule.line ? mono(`${String(rule.file ?? '').split('/').at(-1) || 'line'}:${rule.line}`) : null) },
      ],
    })),
  ];
}

function lists(rule, names) {
  const given = names.filter((name) => Array.isArray(rule[name]) && rule[name].length);
  if (!given.length) return h('span', { class: 'muted' }, 'any');
  return given.map((name) => h('span', { class: 'listed', key: name }, name === 'users' || name === 'destinations' || name === 'sources' ? null : h('span', { class: 'muted' }, `${name} `), rule[name].slice(0, 4).map((item) => badge(String(item))), rule[name].length > 4 ? h('span', { class: 'muted' }, ` +${rule[name].length - 4}`) : null));
}

function tryIt(app) {
  const submit = async (event) => {
    event.preventDefault();
    const { user, groups, source, destination, port, protocol, listener } = event.target.elements;
    const ask = { user: user.value.trim() || undefined, destination: destination.value.trim(), port: Number(port.value), protocol: protocol.value };
    const named = groups.value.split(',').map((name) => name.trim()).filter(Boolean);
    if (named.length) ask.groups = named;
    if (source.value.trim()) ask.source = source.value.trim();
    if (listener.value) ask.listener = listener.value;
    Object.assign(box, { busy: true, error: '' });
    app.render();
    try {
      box.answer = await post('acl/test', ask);
    } catch (error) {
      Object.assign(box, { answer: null, error: error.message });
    }
    box.busy = false;
    app.render();
  };
  const { answer } = box;
  const decision = answer && (answer.decision ?? answer.action);
  return panel('Try it', { key: 'try' }, h('form', { class: 'try', onsubmit: submit, 'aria-label': 'Try the access rules' },
    field('User', h('input', { name: 'user', autocomplete: 'off', spellcheck: 'false', 'data-filter': '', placeholder: 'nobody' })),
    field('Groups', h('input', { name: 'groups', autocomplete: 'off', spellcheck: 'false', placeholder: 'dev, ops' })),
    field('Source', h('input', { name: 'source', autocomplete: 'off', spellcheck: 'false', placeholder: '10.0.0.7' })),
    field('Destination', h('input', { name: 'destination', required: true, autocomplete: 'off', spellcheck: 'false', placeholder: 'host or address' })),
    field('Port', h('input', { name: 'port', type: 'number', min: 1, max: 65_535, required: true, placeholder: '443' }), { className: 'narrow' }),
    field('Protocol', h('select', { name: 'protocol' }, h('option', { value: 'tcp' }, 'TCP'), h('option', { value: 'udp' }, 'UDP')), { className: 'narrow' }),
    field('Listener', h('select', { name: 'listener' }, h('option', { value: '' }, 'any'), (app.status?.listeners ?? []).map((each) => h('option', { value: each.name, key: each.name }, each.name)))),
    h('button', { type: 'submit', class: 'button primary', disabled: box.busy, key: 'go' }, 'Decide')),
    h('div', { role: 'status', class: 'try-answer', key: 'answer' },
      box.error ? h('p', { class: 'form-error' }, box.error) : null,
      decision ? h('p', { class: `verdict ${decision === 'allow' ? 'good' : 'bad'}` }, h('b', null, decision === 'allow' ? 'Allowed' : 'Blocked'), h('span', null, reason(answer))) : null));
}

function reason(answer) {
  if (answer.rule === null || answer.rule === undefined || answer.rule === '') {
    return answer.because === 'reserved destination'
      ? 'A reserved destination (this machine, its links): blocked unless a rule names it.'
      : 'No rule says anything of it: the default decides.';
  }
  return `by ${answer.description ?? `rule ${answer.rule}`}${answer.line ? `, line ${answer.line}` : ''}`;
}
